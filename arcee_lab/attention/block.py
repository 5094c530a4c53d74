"""The pass over heads: statistics of the pattern while a model runs, a few queries at a time."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from arcee_lab.attention.result import HeadStatistic, finding
from arcee_lab.attention.rows import Reading, Rows
from arcee_lab.attention.statistics import SHARE, Statistic
from arcee_lab.errors import SettingError, UnknownName
from arcee_lab.hooks.watch import Watch
from arcee_lab.model.anatomy import Anatomy, anatomy_of
from arcee_lab.model.attention_pattern import AttentionMatrices, AttentionPart
from arcee_lab.results import Result, counted

if TYPE_CHECKING:
    from arcee_lab.views.figures.figure import Figure

SITE = "self_attn.hook_pattern"
# Weights held at a time: 16 MiB in fp32, and a few temporaries of that size next to it.
MOST_WEIGHTS = 2**22
FEWEST_QUERIES = 64  # at a time; for fewer, Python costs more than is saved


class _Sums(NamedTuple):
    """What one layer's forwards add up to, by head."""

    total: Tensor
    n: Tensor


# Values are HeadStatistic; named so here, a type checker at run time would ask for one too early.
class HeadStatistics(Watch, Result, Mapping[str, Any]):
    """What `heads` found: indexed by a statistic, or its name; iteration gives names."""

    _opened_by = "al.attention.heads"

    def __init__(
        self, anatomy: Anatomy, names: list[str], statistics: Sequence[Statistic], *, tokens: bool
    ):
        super().__init__(anatomy, names, seen=True)
        self._statistics = {statistic.name: statistic for statistic in statistics}
        self._layers = {name: int(name.split(".")[1]) for name in names}
        self._tokens = tokens
        self._sums: dict[tuple[str, str], _Sums] = {}
        self._readings: dict[tuple[str, str], list[Reading]] = {}
        self._even: dict[str, _Sums] = {}  # of the first layer: all layers read the same keys

    # ------------------------------------------------------------------ the block

    def _computes_partially(self, name: str) -> bool:
        return True

    def _on_activation(self, name: str, x: Tensor) -> None:
        raise NotImplementedError("only parts of patterns are read")

    def _on_attention(self, name: str, matrices: AttentionMatrices) -> None:
        with torch.no_grad():
            chunks: dict[str, list[Reading]] = {one: [] for one in self._statistics}
            alike: dict[str, list[Reading]] = {one: [] for one in self._shares(name)}
            for rows in rows_of(matrices, self._call.seen, self._call.tokens):
                for one, statistic in self._statistics.items():
                    chunks[one].append(_counted(statistic.read(rows), rows))
                if alike:
                    even = rows.even()
                    for one, readings in alike.items():
                        readings.append(_counted(self._statistics[one].read(even), even))
                    del even
                del rows  # or two of them live at a time
            real = self._call.attended(matrices.device)[:, None, :]
            for one, readings in chunks.items():
                self._add(name, one, self._whole_heads(name, _join(readings)), real)
            for one, readings in alike.items():
                self._even[one] = _summed(self._even.get(one), _join(readings), real)

    def _shares(self, name: str) -> list[str]:
        """Statistics whose value under even attention is wanted: of shares, in the first layer."""
        if name != self._names[0]:
            return []
        return [one for one, statistic in self._statistics.items() if statistic.unit == SHARE]

    def _whole_heads(self, name: str, reading: Reading) -> Reading:
        if self._shards is None:
            return reading
        found = {what: x for what, x in vars(reading).items() if x is not None}
        return Reading(**{what: self._shards.whole(name, x) for what, x in found.items()})

    def _add(self, name: str, one: str, reading: Reading, real: Tensor) -> None:
        self._sums[name, one] = _summed(self._sums.get((name, one)), reading, real)
        if self._tokens:
            assert reading.counts is not None
            value, counts, pad = reading.value, reading.counts & real, ~real
            self._readings.setdefault((name, one), []).append(
                Reading(
                    value.masked_fill(pad, torch.nan),
                    counts,
                    None if reading.weights is None else reading.weights * real[..., None],
                    None if reading.keys is None else reading.keys.masked_fill(pad[..., None], -1),
                )
            )

    # ------------------------------------------------------------------ the results

    def __getitem__(self, what: str | Statistic) -> HeadStatistic:
        name = what if isinstance(what, str) else what.name
        if name not in self._statistics:
            raise UnknownName(
                f"{what} is not among the statistics of this pass: {', '.join(self)}."
            )
        if not all((site, name) in self._sums for site in self._names):
            raise SettingError(
                "No forward has been seen yet: call the model inside the block first."
            )
        sums = [self._sums[site, name] for site in self._names]
        total = torch.stack([one.total.cpu().double() for one in sums])
        n = torch.stack([one.n.cpu() for one in sums])
        even = self._even.get(name)
        return HeadStatistic(
            statistic=self._statistics[name],
            layers=tuple(self._layers.values()),
            mean=total / n,
            n=n,
            readings={
                layer: list(self._readings.get((site, name), ()))
                for site, layer in self._layers.items()
            },
            even=float("nan") if even is None else float(even.total.sum() / even.n.sum()),
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._statistics)

    def __len__(self) -> int:
        return len(self._statistics)

    def __contains__(self, what: object) -> bool:
        return (what.name if isinstance(what, Statistic) else what) in self._statistics

    def frame(self) -> pd.DataFrame:
        """One row per head: layer, head, N, and the mean of each statistic under its name.

        A statistic that says nothing of some tokens has an N of its own, `<name>_n`.
        """
        frames = [self[name].frame() for name in self]
        n = pd.concat([frame["n"] for frame in frames], axis=1).max(axis=1)
        table = frames[0][["layer", "head"]].assign(n=n)
        for name, frame in zip(self, frames, strict=True):
            table[name] = frame[name]
            if not frame["n"].equals(n):
                table[f"{name}_n"] = frame["n"]
        return table

    def figure(self, *, dark: bool = False) -> "Figure":
        """Maps of the means, layer by head, side by side; shares of attention have one scale."""
        from arcee_lab.views.figures.attention_heads import head_maps

        found = [self[name] for name in self]
        return head_maps(
            {one.panel: one.mean.numpy() for one in found},
            [str(layer) for layer in self._layers.values()],
            units=[one.statistic.unit for one in found],
            title=finding(found),
            dark=dark,
        )

    @property
    def headline(self) -> str:
        """How many layers, and which statistics."""
        return f"{counted(len(self._names), 'layer')}: {', '.join(self)}"

    def _repr_html_(self) -> str:
        ran = all((site, name) in self._sums for site in self._names for name in self)
        return super()._repr_html_() if ran else f"<p>{self.headline}; no forward yet</p>"

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)


def rows_of(
    matrices: AttentionMatrices, seen: int | Tensor, tokens: Tensor | None
) -> Iterator[Rows]:
    """All rows of a pattern, in fp32, as many queries at a time as `MOST_WEIGHTS` allows.

    Args:
        matrices: Of one layer in one call.
        seen: Tokens in the cache before the call.
        tokens: Ids of the call, if it gave ids.
    """
    batch, heads, q_len, k_len = matrices.shape
    if tokens is not None:
        # With a cache, also a static one, the call's ids are not those of all keys.
        tokens = tokens.to(matrices.device) if tokens.shape[1] == k_len else None
    step = max(1, MOST_WEIGHTS // (batch * heads * k_len))
    # The first queries may read few keys, so four pieces compute five eighths of the weights.
    step = min(step, max(FEWEST_QUERIES, -(-q_len // 4)))
    for start in range(0, q_len, step):
        stop = min(start + step, q_len)
        part = AttentionPart(queries=slice(start, stop), end=matrices.mask.end(stop))
        yield Rows(
            pattern=matrices.pattern(part, dtype=torch.float32),
            allowed=matrices.keys(part).allowed,
            place=torch.arange(start, stop, device=matrices.device) + seen,
            tokens=tokens,
        )


def _summed(before: _Sums | None, reading: Reading, real: Tensor) -> _Sums:
    """What was added up so far, and a reading of further tokens."""
    assert reading.counts is not None
    value, counts = reading.value, reading.counts & real
    wide = torch.float32 if value.device.type == "mps" else torch.float64  # it has no other
    total, n = torch.where(counts, value, 0).sum(dim=(0, 2), dtype=wide), counts.sum(dim=(0, 2))
    return _Sums(total, n) if before is None else _Sums(before.total + total, before.n + n)


def _counted(reading: Reading, rows: Rows) -> Reading:
    counts = rows.choice if reading.counts is None else reading.counts
    counts = counts.expand(reading.value.shape)
    return Reading(reading.value, counts, reading.weights, reading.keys)


def _join(readings: list[Reading]) -> Reading:
    parts = {}
    for what, first in vars(readings[0]).items():
        parts[what] = None if first is None else torch.cat([vars(r)[what] for r in readings], 2)
    return Reading(**parts)


def heads(
    model: nn.Module,
    statistics: Statistic | Sequence[Statistic],
    *,
    layers: str | int | Sequence[str | int] = "layers.*",
    tokens: bool = True,
) -> HeadStatistics:
    """Reads statistics of attention heads while the model runs inside the block.

    The pattern is computed next to the fast kernel, a few queries at a time, so that no tensor of
    `[head, q_pos, k_pos]` exists and logits stay bit-identical. Scores have the model's dtype,
    softmax and statistics are fp32, sums over tokens fp64 and counts int64. Works in every call
    that `al.capture` takes: padding, packed rows, 4-D masks, cached decode and `generate`, and
    under `al.intervene`, where the edited pattern is read. Nothing is read back from the
    device before a result is asked for.

    Args:
        model: One of arcee_lab's models.
        statistics: Such as `[al.attention.Entropy(), al.attention.Offset(1)]`.
        layers: Numbers, or filters such as "layers.4:8".
        tokens: Whether to keep the values of each token; without them a pass over many texts holds
            two numbers per head.

    Returns:
        A context manager that yields `HeadStatistics`.

    Raises:
        ValueError: For a layer that the model lacks, no statistic, or one named twice.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> batch = tokenizer(["The dogs near the barn sleep ."], return_tensors="pt")
        >>> with al.attention.heads(model, [al.attention.Offset(1)]) as stats:
        ...     output = model(**batch)
        >>> list(stats["offset_1"].mean.shape) == [
        ...     model.config.num_hidden_layers, model.config.num_attention_heads
        ... ]
        True
    """
    anatomy = anatomy_of(model)
    chosen = list(statistics) if isinstance(statistics, Sequence) else [statistics]
    wrong = [one for one in chosen if not isinstance(one, Statistic)]
    if wrong or not chosen:
        raise SettingError(
            f"statistics are values such as Entropy() or Offset(1); got {(wrong or chosen)!r}."
        )
    names = [one.name for one in chosen]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SettingError(f"{twice[0]!r} is asked for twice; name each statistic once.")
    several = isinstance(layers, Iterable) and not isinstance(layers, str)
    filters: list[Any] = [*layers] if several else [layers]  # type: ignore[misc]
    if not filters or not all(isinstance(layer, str | int) for layer in filters):
        raise SettingError(f"layers are numbers or filters such as 'layers.4:8'; got {layers!r}.")
    sites = [_site(layer) for layer in filters]
    return HeadStatistics(anatomy, anatomy.resolve(sites), chosen, tokens=tokens)


def _site(layer: str | int) -> str:
    path = f"layers.{layer}" if isinstance(layer, int) else layer
    return path if path.endswith("hook_pattern") else f"{path}.{SITE}"
