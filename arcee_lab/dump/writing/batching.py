"""Which windows go into which batch, and which batches into which shard.

A pure function of the windows and the settings. The bits of a matrix product depend on the shape of
the batch, so a shard that is computed again must be computed in the same batches. No batch contains
windows of two shards.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from arcee_lab.data.windows import Windows, plan_batches
from arcee_lab.dump.format.token_table import TokenTable
from arcee_lab.errors import SettingError

BatchRow = tuple[int, ...]


@dataclass(frozen=True)
class PlannedShard:
    """A range of windows, and the batches in which they are computed.

    Attributes:
        number: Its index among the shards.
        start: First token, numbered within the store.
        stop: The token after its last one.
        windows: Its windows.
        batches: Rows of each batch; a row holds one window, or several in sequence.
    """

    number: int
    start: int
    stop: int
    windows: range
    batches: tuple[tuple[BatchRow, ...], ...]

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Piece:
    """Tokens that are contiguous both in a batch and in the shard.

    Attributes:
        source: Position of the first one in the batch, with its rows concatenated.
        at: Its position in the shard.
        length: Number of tokens.
    """

    source: int
    at: int
    length: int


@dataclass(frozen=True)
class Inputs:
    """The arguments of a forward.

    Attributes:
        input_ids: Token ids.
        attention_mask: 1 for a real token; None for packed rows.
        position_ids: For packed rows; they restart at each window, which separates windows.
    """

    input_ids: Int[Tensor, "batch pos"]
    attention_mask: Int[Tensor, "batch pos"] | None
    position_ids: Int[Tensor, "batch pos"] | None

    def to(self, device: torch.device) -> dict[str, Tensor]:
        """The arguments by name, on a device."""
        named = {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
        }
        return {name: x.to(device) for name, x in named.items() if x is not None}


@dataclass(frozen=True, repr=False)
class BatchPlan:
    """All shards of a dump with their batches.

    Attributes:
        windows: The tokens.
        shards: In the order of the text.
        packed: Whether rows hold several windows.
        tags: Further numbers per token of the store.
    """

    windows: Windows
    shards: tuple[PlannedShard, ...]
    packed: bool
    tags: Mapping[str, Int[Tensor, " token"]] = field(default_factory=dict)

    @property
    def n_tokens(self) -> int:
        """Tokens that are stored."""
        return self.shards[-1].stop if self.shards else 0

    def inputs(self, rows: Sequence[BatchRow]) -> Inputs:
        """The tensors of one batch, padded on the right."""
        lengths = [sum(len(self.windows[w]) for w in row) for row in rows]
        ids = np.full((len(rows), max(lengths)), self.windows.pad_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        # A padding token in a packed row is a sequence of its own, which no other token attends to.
        places = np.zeros_like(ids)
        for slot, row in enumerate(rows):
            at = 0
            for window in row:
                content = self.windows[window]
                here = slice(at, at + len(content))
                ids[slot, here], mask[slot, here] = content, 1
                if self.packed:
                    places[slot, here] = np.arange(len(content))
                at += len(content)
        return Inputs(
            torch.from_numpy(ids),
            None if self.packed else torch.from_numpy(mask),
            torch.from_numpy(places) if self.packed else None,
        )

    def pieces(self, shard: PlannedShard, rows: Sequence[BatchRow]) -> tuple[Piece, ...]:
        """Positions of a batch's tokens in its shard; repeated tokens are not stored."""
        starts = self._starts(shard)
        length = max(sum(len(self.windows[w]) for w in row) for row in rows)
        pieces: list[Piece] = []
        for slot, row in enumerate(rows):
            source = slot * length
            for window in row:
                at = int(starts[window - shard.windows.start])
                for low, high in self._new_runs(window):
                    pieces.append(Piece(source + low, at, high - low))
                    at += high - low
                source += len(self.windows[window])
        return tuple(_joined(pieces))

    def _new_runs(self, window: int) -> Iterator[tuple[int, int]]:
        if self.windows.repeated is None:  # which numpy would find out in ten times the time
            length = len(self.windows[window])
            return iter([(0, length)] if length else [])
        return _runs(self.windows.new(window))

    def tokens(self, shard: PlannedShard) -> TokenTable:
        """The token columns of a shard."""
        inside = slice(shard.windows.start, shard.windows.stop)
        bounds = self.windows.bounds[inside.start : inside.stop + 1]
        ids = self.windows.ids[bounds[0] : bounds[-1]]
        positions = np.arange(len(ids)) - np.repeat(bounds[:-1] - bounds[0], np.diff(bounds))
        if self.windows.repeated is not None:
            new = np.concatenate([self.windows.new(window) for window in shard.windows])
            ids, positions = ids[new], positions[new]
        counts = self._counts[inside]
        first = positions == 0
        if self.windows.bos_id is not None:
            first |= ids == self.windows.bos_id
        columns = {
            "ids": ids,
            "positions": positions,
            "documents": np.repeat(self.windows.documents[inside], counts),
            "windows": np.repeat(np.arange(inside.start, inside.stop), counts),
        }
        return TokenTable(
            **{name: torch.from_numpy(x.astype(np.int32)) for name, x in columns.items()},
            attended=torch.ones(len(ids), dtype=torch.bool),
            first=torch.from_numpy(first),
            tags={name: tag[shard.start : shard.stop] for name, tag in self.tags.items()},
        )

    @cached_property
    def _counts(self) -> np.ndarray:
        return stored_counts(self.windows)

    def _starts(self, shard: PlannedShard) -> np.ndarray:
        counts = self._counts[shard.windows.start : shard.windows.stop]
        return np.cumsum(counts) - counts


def stored_counts(windows: Windows) -> np.ndarray:
    """How many tokens of each window are stored: those that no earlier window holds."""
    lengths = np.diff(windows.bounds)
    return lengths if windows.repeated is None else lengths - windows.repeated


def plan_shards(
    windows: Windows, *, batch_size: int, shard_tokens: int, packed: bool, context: int
) -> tuple[PlannedShard, ...]:
    """Divides windows into shards and batches.

    Shards take windows in the order of the text, as many as fit. Within a shard, padded batches
    take windows of similar length; packed rows take them in order, as many as fit into `context`.

    Args:
        windows: The tokens.
        batch_size: Rows per batch.
        shard_tokens: Most tokens per shard.
        packed: Whether rows hold several windows.
        context: Longest row.

    Raises:
        SettingError: A window is longer than a shard.
    """
    counts = stored_counts(windows)
    if counts.max(initial=0) > shard_tokens:
        raise SettingError(
            f"shard_tokens is {shard_tokens}, but a window has {int(counts.max())} tokens; "
            "expected shards that hold a window, so raise it or choose a shorter context."
        )
    lengths = np.diff(windows.bounds).tolist()
    shards: list[PlannedShard] = []
    start = 0
    for first, last in _filled(counts.tolist(), shard_tokens):
        inside = range(first, last)
        if packed:
            rows = [
                tuple(range(first + low, first + high))
                for low, high in _filled(lengths[first:last], max(context, max(lengths)))
            ]
            batches = [tuple(rows[at : at + batch_size]) for at in range(0, len(rows), batch_size)]
        else:
            batches = [
                tuple((first + place,) for place in places)
                for places in plan_batches(lengths[first:last], batch_size)
            ]
        stop = start + int(counts[first:last].sum())
        shards.append(PlannedShard(len(shards), start, stop, inside, tuple(batches)))
        start = stop
    return tuple(shards)


def _filled(sizes: Sequence[int], room: int) -> Iterator[tuple[int, int]]:
    """Consecutive ranges whose sizes together fit the room, each as long as possible."""
    start, used = 0, 0
    for place, size in enumerate(sizes):
        if used + size > room:
            yield start, place
            start, used = place, 0
        used += size
    if sizes:
        yield start, len(sizes)


def _runs(kept: Bool[np.ndarray, " pos"]) -> Iterator[tuple[int, int]]:
    """Start and end of each run of marked positions."""
    edges = np.flatnonzero(np.diff(kept.astype(np.int8), prepend=0, append=0))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _joined(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """The same pieces, merged if they are adjacent both in the batch and in the shard."""
    held: Piece | None = None
    for piece in pieces:
        if (
            held is not None
            and held.source + held.length == piece.source
            and held.at + held.length == piece.at
        ):
            held = Piece(held.source, held.at, held.length + piece.length)
            continue
        if held is not None:
            yield held
        held = piece
    if held is not None:
        yield held
