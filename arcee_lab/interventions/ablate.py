"""Put other activations in place of the model's own: zeros, means, other tokens', another run's."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from arcee_lab.errors import SettingError
from arcee_lab.hooks.selection import position_axis
from arcee_lab.interventions.arithmetic import basis_of, projected
from arcee_lab.interventions.base import Change, Intervention, Place
from arcee_lab.interventions.call_state import Forward
from arcee_lab.interventions.constants import as_mask, as_value
from arcee_lab.interventions.device_cache import sent
from arcee_lab.interventions.slices import over_tokens

_TO = ("zero", "mean", "resample")


@dataclass(frozen=True, repr=False)
class Ablate(Intervention):
    """Replaces activations by values that say nothing about the token.

    * "zero": 0.
    * "mean": `value`, a number or a tensor over the site's feature axes, e.g. `[d_mlp]`; or a
      result with such a tensor as `mean`; or a mapping site -> one of these.
    * "resample": without a `value`, those of another sequence of the batch at the same attended
      position (at its last one, if it is shorter); the sequences are shuffled in one cycle, so none
      keeps its own. With `value` `[n, *features]`, one of its n rows is drawn for each token.
      All sites of a forward take the same sequences and rows.

    The shared arguments are those of `Intervention`.

    Attributes:
        to: What activations are replaced by: one of the above.
        value: See above.
        seed: Random seed of "resample"; each forward of the block draws again.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> batch = tokenizer(["The dogs near the barn sleep ."], return_tensors="pt")
        >>> with al.intervene(model, [al.Ablate("layers.1.mlp.hook_post", units=[17])]):
        ...     logits = model(**batch).logits
    """

    to: Literal["zero", "mean", "resample"] = "zero"
    value: Any = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.to not in _TO:
            raise SettingError(f"to={self.to!r}; expected one of {', '.join(_TO)}.")
        if not isinstance(self.seed, int):
            raise SettingError(f"seed must be a whole number; got {self.seed!r}.")
        if self.to == "mean" and self.value is None:
            raise SettingError("to='mean' needs the mean: Ablate(sites, 'mean', value).")
        if self.to == "zero" and self.value is not None:
            raise SettingError("to='zero' takes no value; for another number use to='mean'.")
        if self.value is not None:
            names: tuple[str, ...] = self.sites  # type: ignore[assignment]
            self._set(value=as_value(self.value, what="value", names=names))

    def bind(self, place: Place) -> Change:
        """Zeros, the mean, or what is drawn in each forward."""
        if self.to == "zero":
            return lambda x, now: torch.zeros_like(x)
        if self.to == "mean":
            mean = place.number(self.value, what="value")
            return lambda x, now: _filled(x, mean(x))
        if place.site.on_request:
            raise SettingError(
                f"{place.name} cannot be resampled: other sequences have other keys. Use al.Patch."
            )
        if self.value is None:
            return lambda x, now: _of_other_sequences(x, now, place, self.seed)
        return self._drawn(place)

    def _drawn(self, place: Place) -> Change:
        axes = place.site.axes
        given = place.stacked(self.value, what="value")
        count = given.shape[0]

        def change(x: Tensor, now: Forward) -> Tensor:
            tokens = x.shape[: 1 if position_axis(axes) is None else 2]
            source = torch.Generator().manual_seed(now.random(self.seed).getrandbits(63))
            rows = sent(torch.randint(count, tokens, generator=source), x.device)
            rows_there = place.placed.tensor(given, x.device, x.dtype)
            taken = rows_there.index_select(0, rows.flatten())
            return taken.view(*tokens, *taken.shape[1:]).expand(x.shape)

        return change


@dataclass(frozen=True, repr=False)
class Patch(Intervention):
    """Puts the activations of another run in place: per layer, head, unit and position.

    Source of the method: Vig et al., "Investigating Gender Bias in Language Models Using Causal
    Mediation Analysis", arXiv:2004.12265.

    The shared arguments are those of `Intervention`.

    Attributes:
        source: What `al.capture` recorded, or a mapping site -> tensor, or one tensor. Each has the
            shape of the site, or 1 for batch or pos, which then serves all; or only the feature
            axes. Heads and units may be cut to the ones changed already. Column i of the source
            goes to column i of the sequence, padding and cache included; in `generate` the tokens
            after its end are left alone.
        attended: Which columns of the source are real, `[batch or 1, columns]` bools; a capture
            tells it. Where it is known, a token that gets another one's activation is an error when
            the block ends: the runs are padded on different sides, or to different lengths.
        within: Directions `[d]` or `[k, d]`, d the last axis of the site, linearly independent:
            only the part of the activations in their span is put in place, as in interchange
            interventions of a subspace (Geiger et al., arXiv:2303.02536). None: all of them.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> one = tokenizer(["The dogs near the barn sleep ."], return_tensors="pt")
        >>> two = tokenizer(["The dog near the barn sleeps ."], return_tensors="pt")
        >>> with al.capture(model, "layers.0.hook_resid_post") as acts:
        ...     clean = model(**one).logits
        >>> with al.intervene(model, [al.Patch("layers.0.hook_resid_post", acts, positions=2)]):
        ...     patched = model(**two).logits
    """

    source: Any
    attended: Any = None
    within: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.within is not None:
            self._set(within=as_value(self.within, what="within"))
            if self.units is not None:
                raise SettingError("within takes whole directions; leave units out.")
        names: tuple[str, ...] = self.sites  # type: ignore[assignment]
        attended = self.attended
        if attended is None:
            attended = getattr(self.source, "attended", None)
        if attended is not None:
            self._set(attended=as_mask(attended, what="attended"))
        self._set(source=as_value(self.source, what="source", names=names))

    def bind(self, place: Place) -> Change:
        """The source's columns that are the call's, or what of them is in the span of `within`."""
        whole = self._whole(place)
        if self.within is None:
            return whole
        basis = basis_of(self.within, place, what="within")

        def change(x: Tensor, now: Forward) -> Tensor:
            wide = x.to(torch.promote_types(x.dtype, torch.float32))
            step = projected(whole(x, now).to(wide.dtype) - wide, basis, place)
            return (wide + step).to(x.dtype)

        return change

    def _whole(self, place: Place) -> Change:
        given = place.activation(self.source, what="source")
        axes, axis = place.site.axes, position_axis(place.site.axes)
        whole = given.ndim == len(axes)
        attended = None if self.attended is None else self.attended.tensor
        if attended is not None and whole and axis is not None:
            held = given.shape[axis]
            if held not in (1, attended.shape[1]):
                raise SettingError(
                    f"attended has {attended.shape[1]} columns and source {held} tokens at "
                    f"{place.name}; expected as many."
                )

        def change(x: Tensor, now: Forward) -> Tensor:
            source = place.placed.tensor(given, x.device, x.dtype)
            if not whole:
                return _filled(x, source)
            if source.shape[0] not in (1, x.shape[0]):
                raise SettingError(
                    f"source has {source.shape[0]} sequences at {place.name} and the call "
                    f"{x.shape[0]}; expected as many, or 1 for all."
                )
            if axis is None or source.shape[axis] == 1:
                return _filled(x, source)
            now.check_length(x, axis, axes, place.name)
            if attended is not None:
                now.compare_tokens(attended, self.where, x.device, place.name)
            return _aligned(x, source, axis, now, place)

        return change


def _filled(x: Tensor, value: float | Tensor) -> Tensor:
    if not isinstance(value, Tensor):
        return torch.full_like(x, value)
    try:
        return value.expand(x.shape).contiguous()
    except RuntimeError:
        raise SettingError(
            f"Expected a tensor that broadcasts to {list(x.shape)}; got {list(value.shape)}."
        ) from None


def _aligned(x: Tensor, source: Tensor, axis: int, now: Forward, place: Place) -> Tensor:
    """The columns of the source that are the call's; `x` itself where it has none."""
    length, seen = now.call.length, now.call.seen
    held = source.shape[axis]
    if isinstance(seen, int):
        if seen == 0 and length == held:
            return _filled(x, source)
        if seen >= held:
            return x
        if seen == 0 and (length < held or not now.generating):
            raise SettingError(
                f"source holds {held} tokens at {place.name} and the call {length}; expected as "
                "many. Capture both runs at the same length, or cut the source to the tokens "
                "meant: source[:, 3:4] with positions=3."
            )
    columns = torch.arange(length, device=x.device) + seen
    there = source.index_select(axis, columns.clamp(max=held - 1))
    if place.site.on_request and there.shape[-1] != x.shape[-1]:
        raise SettingError(
            f"source holds {there.shape[-1]} keys at {place.name} and the call {x.shape[-1]}; a "
            "pattern can be patched in a forward of the same length only."
        )
    return torch.where(over_tokens((columns < held)[None], place.site.axes), there, x)


def _of_other_sequences(x: Tensor, now: Forward, place: Place, seed: int) -> Tensor:
    batch = x.shape[0]
    if batch < 2:
        raise SettingError(
            f"Resampling {place.name} within a batch needs two sequences or more; got {batch}. "
            "Give a larger batch, or rows to draw from: Ablate(sites, 'resample', value)."
        )
    order = sent(torch.tensor(_one_cycle(batch, now, seed)), x.device)
    other = x.index_select(0, order)
    axis = position_axis(place.site.axes)
    if axis is None or not isinstance(now.call.mask, Tensor):
        return other
    now.check_length(x, axis, place.site.axes, place.name)
    columns = _same_place(now.call.attended(x.device), order)
    index = columns.view(*columns.shape, *[1] * (x.ndim - 2)).expand(x.shape)
    return other.gather(axis, index)


def _same_place(real: Tensor, order: Tensor) -> Int[Tensor, "batch pos"]:
    """For each token, the column of the other sequence that has as many attended tokens before."""
    attended_first = torch.sort((~real).to(torch.int8), dim=1, stable=True).indices
    last = real.sum(dim=1, keepdim=True).index_select(0, order) - 1
    rank = torch.minimum(real.cumsum(dim=1) - 1, last).clamp(min=0)
    return attended_first.index_select(0, order).gather(1, rank)


def _one_cycle(length: int, now: Forward, seed: int) -> list[int]:
    """A random permutation that is a single cycle (Sattolo's algorithm): nothing stays in place."""
    order, draw = list(range(length)), now.random(seed)
    for last in range(length - 1, 0, -1):
        other = draw.randrange(last)
        order[last], order[other] = order[other], order[last]
    return order
