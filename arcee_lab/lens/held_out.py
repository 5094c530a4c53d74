"""What a lens is fitted to and measured by: the model's own last stream, and other documents."""

from collections.abc import Sequence

import torch
from torch import Tensor

from arcee_lab.data.windows import PaddedBatch, Windows
from arcee_lab.errors import ModelError, SettingError, TextError
from arcee_lab.lens import readout
from arcee_lab.lens._logit_lens import residual_sites
from arcee_lab.lens.prompts import Prompts
from arcee_lab.lens.readout import Readout
from arcee_lab.lens.streaming import run
from arcee_lab.lens.tuned import translated
from arcee_lab.model.anatomy import Anatomy


def mapped_sites(
    anatomy: Anatomy, sites: str | Sequence[str], *, kind: str
) -> tuple[list[str], str]:
    """The sites that a lens has a map for, and the last site, which needs none.

    Args:
        anatomy: Of the model.
        sites: Residual sites, as filters.
        kind: What the lens is called.

    Raises:
        ModelError: The model has no LM head.
        SettingError: A site is no residual stream, or only the last one is named.
    """
    if anatomy.legend.head != "causal":
        raise ModelError(
            f"A {kind} needs an LM head, and this is a {type(anatomy.model).__name__}; load "
            "the model with head='causal'."
        )
    names = residual_sites(anatomy, [sites] if isinstance(sites, str) else list(sites))
    last = f"layers.{len(anatomy.backbone.layers) - 1}.hook_resid_post"
    mapped = [name for name in names if name != last]
    if not mapped:
        raise SettingError(f"{last} is what the head reads anyway; name an earlier site too.")
    return mapped, last


def split(
    windows: Windows, batch_size: int, held_out: float, seed: int, *, kind: str
) -> tuple[list[PaddedBatch], list[PaddedBatch]]:
    """Batches to fit on, and batches of other documents.

    Args:
        windows: Of all documents.
        batch_size: Windows per batch.
        held_out: Share of the documents in the second list, at least one.
        seed: Of the choice of documents.
        kind: What the lens is called.

    Raises:
        TextError: There is one document alone.
    """
    documents = sorted(set(windows.documents.tolist()))
    if len(documents) < 2:
        raise TextError(f"A {kind} needs two documents, one of them held out; got one.")
    order = torch.randperm(len(documents), generator=torch.Generator().manual_seed(seed)).tolist()
    n = min(len(documents) - 1, max(1, round(held_out * len(documents))))
    held = {documents[i] for i in order[:n]}
    parts: list[list[PaddedBatch]] = [[], []]
    for batch in windows.batches(batch_size):
        where = torch.tensor([int(windows.documents[row]) in held for row in batch.rows])
        for part, rows in zip(parts, (~where, where), strict=True):
            if bool(rows.any()):
                kept = tuple(
                    row for row, keep in zip(batch.rows, rows.tolist(), strict=True) if keep
                )
                part.append(
                    PaddedBatch(
                        batch.input_ids[rows], batch.attention_mask[rows], batch.first[rows], kept
                    )
                )
    return parts[0], parts[1]


class Teacher:
    """The model as a teacher of its own lens.

    Args:
        anatomy: Of the model.
        names: The sites that have a map.
        last: The last residual stream.

    Attributes:
        step: Most tokens whose logits are held at a time.
    """

    def __init__(self, anatomy: Anatomy, names: list[str], last: str):
        self._anatomy, self._names, self._last = anatomy, names, last
        self._readout = Readout(anatomy)
        self.step = max(1, readout.MOST_LOGITS // anatomy.size("vocab"))

    def streams(self, batch: PaddedBatch) -> dict[str, Tensor]:
        """The residual streams of all real tokens of a batch, `[token, d_model]`."""
        given = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        prompts = Prompts.read(self._anatomy, None, given, positions=None)
        found: dict[str, Tensor] = {}

        def keep(name: str):
            return lambda x: found.__setitem__(name, x[prompts.real.to(x.device)])

        run(self._anatomy, prompts, {name: keep(name) for name in (*self._names, self._last)})
        return {name: x.to(prompts.ids.device) for name, x in found.items()}

    def says(self, x: Tensor) -> Tensor:
        """Logarithms of the probabilities of all tokens, from residual streams."""
        logits = self._readout.logits(x)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)

    @torch.no_grad()
    def divergences(
        self, batches: list[PaddedBatch], maps: dict[str, tuple[Tensor, Tensor]]
    ) -> tuple[tuple[float, ...], tuple[float, ...], int]:
        """Mean KL divergence by site, of the plain lens and of that with maps, and over how many.

        Args:
            batches: What is read.
            maps: By site the matrix A and the shift b of `x + A x + b`.
        """
        sums = torch.zeros(2, len(self._names), dtype=torch.float64)
        tokens = 0
        for batch in batches:
            streams = self.streams(batch)
            n = len(streams[self._last])
            tokens += n
            for start in range(0, n, self.step):
                some = slice(start, start + self.step)
                goal = self.says(streams[self._last][some])
                for number, name in enumerate(self._names):
                    x = streams[name][some]
                    for row, stream in enumerate((x, translated(x, *maps[name]))):
                        kl = divergence(goal, self.says(stream)).sum()
                        sums[row, number] += float(kl)
        plain, fitted = (sums / tokens).tolist()
        return tuple(plain), tuple(fitted), tokens


def divergence(goal: Tensor, said: Tensor) -> Tensor:
    """KL(goal || said) of each token in nats, from logarithms of probabilities."""
    return (goal.exp() * (goal - said)).sum(dim=-1)
