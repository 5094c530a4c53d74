"""Which windows go into which forward, which of them are in the share, and which tokens count.

A window is in the share when the checksum of its token ids is a multiple of the share, so the
choice hangs on the window's own tokens: how a text is cut into files, batches or ranks does not
change it. Predictors are dearer than all else, so they are tried in every fourth window of the
share, again by its checksum, on 1 token in 16: those whose position plus the checksum is a multiple
of 16. The other windows go into forwards of their own, since rounding the weights costs as much for
few tokens as for many. Where all windows are in the share, or there are fewer than 256, they are
tried in each of the share on 1 token in 32; where `share=1` is asked for, and by default on texts
below 1,024 tokens, on every token. One that has none before it in its window is left out there.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from arcee_lab.data.windows import Windows, plan_batches
from arcee_lab.errors import SettingError
from arcee_lab.sparsity.core import kept_tokens
from arcee_lab.sparsity.core.kept_tokens import Drawn
from arcee_lab.sparsity.core.state import Tokens

SHARE = 8  # 1 window in 8
FEW = 64  # windows, below which all are in the share unless it is given
FEW_TOKENS = 1024  # below which predictors are then tried on all of them
SPREAD = 4  # of a long text, predictors are tried in 1 in so many of the share's windows
EVERY = 16  # and there on 1 token in so many
EVERY_OF_ALL = 32  # of a shorter one in each of the share's windows, on 1 token in so many


@dataclass(frozen=True, eq=False)
class Job:
    """One forward.

    Attributes:
        input_ids: Padded on the right.
        attention_mask: 1 for a real token.
        first: Where first positions lie in the flattened batch.
        tokens: The tokens that count.
        in_share: Whether all of its windows are in the share; else none is.
    """

    input_ids: Int[Tensor, "batch pos"]
    attention_mask: Int[Tensor, "batch pos"]
    first: Int[Tensor, " first"]
    tokens: Tokens
    in_share: bool


@dataclass(frozen=True)
class Part:
    """What some batches of a pass hold.

    Attributes:
        documents: Documents that their windows come from.
        windows: Their windows.
        tokens: Tokens that count.
        first: First positions, which stand apart.
        shared: Of the tokens that count, those in the share.
    """

    documents: int
    windows: int
    tokens: int
    first: int
    shared: int


@dataclass(frozen=True, eq=False)
class Plan:
    """All forwards of a pass.

    Attributes:
        windows: The text.
        share: 1 window in so many is in the share.
        spread: Predictors are tried in 1 in so many of its windows.
        every: And there on 1 token in so many.
        batches: `(window numbers, in the share)`, in the order of the pass.
    """

    windows: Windows
    share: int
    spread: int
    every: int
    batches: tuple[tuple[tuple[int, ...], bool], ...]
    _counted: np.ndarray
    _slots: np.ndarray
    _keys: np.ndarray
    _tried: np.ndarray

    @property
    def stride(self) -> int:
        """Of the share's tokens, predictors are tried on 1 in so many."""
        return self.spread * self.every

    @property
    def shared_tokens(self) -> int:
        """Counted tokens in the share."""
        return self.part(range(len(self.batches))).shared

    def part(self, chosen: Sequence[int]) -> "Part":
        """What some of the batches hold."""
        rows = np.array([row for batch in chosen for row in self.batches[batch][0]], np.int64)
        bounds = self.windows.bounds
        counted = np.add.reduceat(self._counted.astype(np.int64), bounds[:-1])[rows]
        in_share = self._slots[rows] >= 0
        return Part(
            documents=len(np.unique(self.windows.documents[rows])),
            windows=len(rows),
            tokens=int(counted.sum()),
            first=int(np.diff(bounds)[rows].sum() - counted.sum()),
            shared=int(counted[in_share].sum()),
        )

    def drawn(self, most: int) -> Drawn:
        """The counted tokens whose active neurons are kept as bits, `most` of them or all."""
        return kept_tokens.draw(self._counted, self.windows.bounds, self._keys, most)

    def jobs(self, chosen: Iterator[int] | range | list[int]) -> Iterator[Job]:
        """The forwards of these batches."""
        numbers = np.cumsum(self._counted) - 1
        for batch in chosen:
            yield self._job(*self.batches[batch], numbers)

    def _job(self, rows: tuple[int, ...], in_share: bool, numbers: np.ndarray) -> Job:
        windows = self.windows
        length = max(len(windows[row]) for row in rows)
        input_ids = np.full((len(rows), length), windows.pad_id, dtype=np.int64)
        mask = np.zeros_like(input_ids)
        first, kept, spans, sampled = [], [], [], []
        for slot, row in enumerate(rows):
            ids, start = windows[row], int(windows.bounds[row])
            input_ids[slot, : len(ids)] = ids
            mask[slot, : len(ids)] = 1
            counts = self._counted[start : start + len(ids)]
            counted, others = np.flatnonzero(counts), np.flatnonzero(~counts)
            first.append(slot * length + others)
            at = spans[-1][1] if spans else 0
            spans.append((at, at + len(counted)))
            following = np.append(ids[1:], -1)[counted]
            follows = np.diff(counted, prepend=-1) == 1
            follows[:1] = False
            due = (counted + int(self._keys[row])) % self.every == 0
            sampled.append(at + np.flatnonzero(follows & due & self._tried[row]))
            kept.append(
                (slot * length + counted, ids[counted], counted, start + counted, following)
            )
        places, ids, positions, where, following = map(np.concatenate, zip(*kept, strict=True))
        return Job(
            torch.from_numpy(input_ids),
            torch.from_numpy(mask),
            torch.from_numpy(np.concatenate(first)),
            Tokens(
                places=torch.from_numpy(places),
                ids=ids.astype(np.int64),
                positions=positions,
                numbers=numbers[where],
                spans=tuple(spans),
                slots=tuple(int(self._slots[row]) for row in rows),
                keys=tuple(int(self._keys[row]) for row in rows),
                next_ids=following.astype(np.int64),
                sampled=np.concatenate(sampled),
            ),
            in_share,
        )


def plan(windows: Windows, *, batch_size: int, share: int | None) -> Plan:
    """Plans the forwards.

    Args:
        windows: The text.
        batch_size: Windows a forward.
        share: 1 window in so many is in the share, and 1 shows every token to the predictors. None:
            8, or all windows where there are fewer than 64.

    Raises:
        ValueError: A share or a batch size below 1, or no token but first positions and padding.
    """
    if share is not None and share < 1:
        raise SettingError(f"share is {share}; expected 1 (every window), 8 (one in eight) or so")
    short = share is None and len(windows) < FEW and windows.n_tokens < FEW_TOKENS
    all_tokens = share == 1 or short
    share = share or (1 if len(windows) < FEW else SHARE)
    # In a short text the share is a handful of windows, and a fourth of them may be none.
    long = share > 1 and len(windows) >= SPREAD * FEW
    spread, every = (SPREAD, EVERY) if long else (1, 1 if all_tokens else EVERY_OF_ALL)
    counted = windows.ids != (-1 if windows.bos_id is None else windows.bos_id)
    counted[windows.bounds[:-1]] = False
    if not counted.any():
        raise SettingError("every window is one token long; expected texts of at least two tokens")
    if (windows.ids[counted] == windows.pad_id).all() and windows.pad_id != windows.bos_id:
        raise SettingError("the texts hold nothing but padding tokens; expected words")
    keys = np.array([zlib.crc32(windows[row].tobytes()) for row in range(len(windows))])
    sizes = np.add.reduceat(counted.astype(np.int64), windows.bounds[:-1])
    chosen = (keys % share == 0) & (sizes > 0)
    slots = np.where(chosen, np.cumsum(chosen) - 1, -1)
    batches = []
    tried = chosen & (keys // share % spread == 0)
    for group, in_share in ((tried, True), (chosen & ~tried, True), (~chosen, False)):
        rows = np.flatnonzero(group)
        lengths = np.diff(windows.bounds)[rows].tolist()
        for batch in plan_batches(lengths, batch_size):
            batches.append((tuple(int(rows[place]) for place in batch), in_share))
    return Plan(windows, share, spread, every, tuple(batches), counted, slots, keys, tried)
