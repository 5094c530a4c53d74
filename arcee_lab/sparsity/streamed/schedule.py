"""Which windows go into which forward pass, which of them are sampled, and which tokens count.

A window is sampled when the checksum of its token ids is a multiple of `sample_every`, so the
choice depends on the window's own tokens alone: how a text is cut into files, batches or ranks does
not change it. Predictors are more expensive than all other analyses, so they are tried in every
fourth window of the sample, again by its checksum, on 1 token in 16: those whose position plus the
checksum is a multiple of 16. The other windows go into separate forward passes, because rounding
the weights costs as much for few tokens as for many. Where all windows are sampled, or there are
fewer than 256, predictors are tried in each window of the sample on 1 token in 32; with
`sample_every=1`, and by default on texts below 1,024 tokens, on every token. A token without a
counted token before it in its window is left out there.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from arcee_lab.data.windows import Windows, plan_batches
from arcee_lab.errors import SettingError, TextError
from arcee_lab.sparsity.core import kept_tokens
from arcee_lab.sparsity.core.kept_tokens import Drawn
from arcee_lab.sparsity.core.state import CountedTokens

SAMPLE_EVERY = 8  # 1 window in 8
FEW = 64  # windows, below which all are sampled unless sample_every is given
FEW_TOKENS = 1024  # below which predictors are then tried on all of them
SPREAD = 4  # of a long text, predictors are tried in every Nth window of the sample
EVERY = 16  # and there on every Nth token
EVERY_OF_ALL = 32  # of a shorter one in each window of the sample, on every Nth token


@dataclass(frozen=True, eq=False)
class Forward:
    """One forward.

    Attributes:
        input_ids: Padded on the right.
        attention_mask: 1 for a real token.
        first: Where first positions are in the flattened batch.
        tokens: The tokens that count.
        in_sample: Whether all of its windows are sampled; else none is.
    """

    input_ids: Int[Tensor, "batch pos"]
    attention_mask: Int[Tensor, "batch pos"]
    first: Int[Tensor, " first"]
    tokens: CountedTokens
    in_sample: bool


@dataclass(frozen=True)
class PassPart:
    """What some batches of a pass hold.

    Attributes:
        documents: Documents that their windows come from.
        windows: Their windows.
        tokens: Tokens that count.
        first: First positions, which are counted separately.
        sampled: Of the tokens that count, those in the sample.
    """

    documents: int
    windows: int
    tokens: int
    first: int
    sampled: int


@dataclass(frozen=True, eq=False)
class PassPlan:
    """All forwards of a pass.

    Attributes:
        windows: The text.
        sample_every: Every Nth window is sampled.
        spread: Predictors are tried in every Nth window of the sample.
        every: And there on every Nth token.
        batches: `(window numbers, in the sample)`, in the order of the pass.
    """

    windows: Windows
    sample_every: int
    spread: int
    every: int
    batches: tuple[tuple[tuple[int, ...], bool], ...]
    _counted: np.ndarray
    _first: np.ndarray
    _slots: np.ndarray
    _keys: np.ndarray
    _tried: np.ndarray

    @property
    def stride(self) -> int:
        """Predictors are tried on every Nth token of the sample."""
        return self.spread * self.every

    @property
    def sampled_tokens(self) -> int:
        """Counted tokens of the sample."""
        return self.part(range(len(self.batches))).sampled

    def part(self, chosen: Sequence[int]) -> "PassPart":
        """What some of the batches hold."""
        rows = np.array([row for batch in chosen for row in self.batches[batch][0]], np.int64)
        bounds = self.windows.bounds
        counted, first = (
            np.add.reduceat(some.astype(np.int64), bounds[:-1])[rows]
            for some in (self._counted, self._first)
        )
        in_sample = self._slots[rows] >= 0
        return PassPart(
            documents=len(np.unique(self.windows.documents[rows])),
            windows=len(rows),
            tokens=int(counted.sum()),
            first=int(first.sum()),
            sampled=int(counted[in_sample].sum()),
        )

    def drawn(self, most: int) -> Drawn:
        """The counted tokens whose active neurons are kept as bits, `most` of them or all."""
        return kept_tokens.draw(self._counted, self.windows.bounds, self._keys, most)

    def forwards(self, chosen: Iterator[int] | range | list[int]) -> Iterator[Forward]:
        """The forwards of these batches."""
        numbers = np.cumsum(self._counted) - 1
        for batch in chosen:
            yield self._forward(*self.batches[batch], numbers)

    def _forward(self, rows: tuple[int, ...], in_sample: bool, numbers: np.ndarray) -> Forward:
        windows = self.windows
        length = max(len(windows[row]) for row in rows)
        input_ids = np.full((len(rows), length), windows.pad_id, dtype=np.int64)
        mask = np.zeros_like(input_ids)
        first, kept, spans, tried_at = [], [], [], []
        for slot, row in enumerate(rows):
            ids, start = windows[row], int(windows.bounds[row])
            input_ids[slot, : len(ids)] = ids
            mask[slot, : len(ids)] = 1
            here = slice(start, start + len(ids))
            counted = np.flatnonzero(self._counted[here])
            first.append(slot * length + np.flatnonzero(self._first[here]))
            at = spans[-1][1] if spans else 0
            spans.append((at, at + len(counted)))
            following = np.append(ids[1:], -1)[counted]
            follows = np.diff(counted, prepend=-1) == 1
            follows[:1] = False
            due = (counted + int(self._keys[row])) % self.every == 0
            tried_at.append(at + np.flatnonzero(follows & due & self._tried[row]))
            kept.append(
                (slot * length + counted, ids[counted], counted, start + counted, following)
            )
        places, ids, positions, where, following = map(np.concatenate, zip(*kept, strict=True))
        return Forward(
            torch.from_numpy(input_ids),
            torch.from_numpy(mask),
            torch.from_numpy(np.concatenate(first)),
            CountedTokens(
                places=torch.from_numpy(places),
                ids=ids.astype(np.int64),
                positions=positions,
                numbers=numbers[where],
                spans=tuple(spans),
                slots=tuple(int(self._slots[row]) for row in rows),
                keys=tuple(int(self._keys[row]) for row in rows),
                next_ids=following.astype(np.int64),
                tried=np.concatenate(tried_at),
            ),
            in_sample,
        )


def plan(windows: Windows, *, batch_size: int, sample_every: int | None) -> PassPlan:
    """Plans the forwards.

    Args:
        windows: The text.
        batch_size: Windows per forward pass.
        sample_every: N takes every Nth window into the sample, and 1 shows every token to
            the predictors. None: 8, or all windows where there are fewer than 64.

    Raises:
        ValueError: A sample_every or a batch size below 1, or only first positions and padding.
    """
    if sample_every is not None and sample_every < 1:
        raise SettingError(
            f"sample_every is {sample_every}; expected a whole number from 1 (every window)."
        )
    short = sample_every is None and len(windows) < FEW and windows.n_tokens < FEW_TOKENS
    all_tokens = sample_every == 1 or short
    sample_every = sample_every or (1 if len(windows) < FEW else SAMPLE_EVERY)
    # In a short text the sample is a handful of windows, and a fourth of them may be none.
    long = sample_every > 1 and len(windows) >= SPREAD * FEW
    spread, every = (SPREAD, EVERY) if long else (1, 1 if all_tokens else EVERY_OF_ALL)
    counted, first = windows.counted(), windows.first()
    if windows.chosen is not None:
        first &= windows.chosen  # tokens of other roles count nowhere
    if not counted.any():
        raise TextError("every window is one token long; expected texts of at least two tokens.")
    if (windows.ids[counted] == windows.pad_id).all() and windows.pad_id != windows.bos_id:
        raise TextError("the texts hold nothing but padding tokens; expected words.")
    keys = np.array([zlib.crc32(windows[row].tobytes()) for row in range(len(windows))])
    sizes = np.add.reduceat(counted.astype(np.int64), windows.bounds[:-1])
    chosen = (keys % sample_every == 0) & (sizes > 0)
    slots = np.where(chosen, np.cumsum(chosen) - 1, -1)
    batches = []
    tried = chosen & (keys // sample_every % spread == 0)
    for group, in_sample in ((tried, True), (chosen & ~tried, True), (~chosen, False)):
        rows = np.flatnonzero(group)
        lengths = np.diff(windows.bounds)[rows].tolist()
        for batch in plan_batches(lengths, batch_size):
            batches.append((tuple(int(rows[place]) for place in batch), in_sample))
    return PassPlan(
        windows, sample_every, spread, every, tuple(batches), counted, first, slots, keys, tried
    )
