"""The nonzeros of a matrix, row by row and bit for bit, and their smallest encoding.

Values are handled as bit patterns, since numpy has no bfloat16. Everything is vectorised, without
Python loops over rows; indices take 16 bits if a row has at most 65,536 columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from arcee_lab.errors import SettingError, StoreDamaged

LONGEST = 65_536  # columns that a 16-bit index can address
_BITS = {torch.bfloat16: np.uint16, torch.float16: np.uint16, torch.float32: np.uint32}
_INFINITY = {torch.bfloat16: 0x7F80, torch.float16: 0x7C00, torch.float32: 0x7F800000}
_SIGNED = {np.dtype(np.uint16): np.int16, np.dtype(np.uint32): np.int32}
_TILE = 128
_ENTRIES = 1 << 14  # of a piece that are merged at once
_SORTED = 1 << 21  # entries that are sorted at once; each takes 8 bytes while they are sorted
_CACHED = 1 << 18  # cells of a matrix that are processed at once


def to_bits(x: Tensor) -> np.ndarray:
    """The bit patterns of a floating-point tensor on the CPU, without a copy.

    Raises:
        SettingError: A dtype other than bfloat16, float16 and float32.
    """
    if x.dtype not in _BITS:
        raise SettingError(f"got {x.dtype}; expected bfloat16, float16 or float32.")
    bits = np.dtype(_BITS[x.dtype])
    signed = torch.int16 if bits.itemsize == 2 else torch.int32
    return x.view(signed).numpy().view(bits)


def from_bits(bits: np.ndarray, dtype: torch.dtype) -> Tensor:
    """The inverse of `to_bits`."""
    return torch.from_numpy(bits.view(_SIGNED[bits.dtype])).view(dtype)


def transpose(bits: np.ndarray) -> np.ndarray:
    """The transposed matrix, contiguous; tile by tile, so that both sides stay in the cache.

    With numpy, since torch would use threads that the model needs.
    """
    if bits.T.flags.c_contiguous:
        return bits.T
    n_rows, width = bits.shape
    out = np.empty((width, n_rows), dtype=bits.dtype)
    for column in range(0, width, _TILE):
        columns = slice(column, column + _TILE)
        for row in range(0, n_rows, _TILE):
            rows = slice(row, row + _TILE)
            out[columns, rows] = bits[rows, columns].T
    return out


def count_nan(bits: np.ndarray, dtype: torch.dtype, *, infinite: bool = False) -> int:
    """How many bit patterns are NaN, or NaN or infinite."""
    infinity = _INFINITY[dtype]
    sign = 1 << (8 * bits.itemsize - 1)
    return int(np.count_nonzero((bits & bits.dtype.type(sign - 1)) > infinity - infinite))


@dataclass(frozen=True)
class SparseRows:
    """The nonzeros of a matrix.

    Attributes:
        offsets: int64, rows + 1 of them: row m has the entries from offsets[m] to offsets[m + 1].
        index: The column of each entry, rising within a row; uint16, or uint32 beyond 65,536.
        values: Its bit pattern.
        width: Columns of the matrix.
    """

    offsets: np.ndarray
    index: np.ndarray
    values: np.ndarray
    width: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> np.ndarray:
        """Entries per row."""
        return np.diff(self.offsets)

    @property
    def row(self) -> np.ndarray:
        """The row of each entry."""
        return np.repeat(np.arange(len(self)), self.counts)

    def dense(self) -> np.ndarray:
        """The whole matrix, as bit patterns."""
        cells = np.zeros(len(self) * self.width, dtype=self.values.dtype)
        cells[self.row * self.width + self.index] = self.values
        return cells.reshape(len(self), self.width)

    def take(self, which: np.ndarray) -> "SparseRows":
        """Some rows of the matrix, in the order of their numbers in `which`."""
        low, high = self.offsets[which], self.offsets[which + 1]
        entries = _runs(low, high)
        return SparseRows(
            _offsets(high - low), self.index[entries], self.values[entries], self.width
        )

    def transposed(self) -> "SparseRows":
        """The same matrix, columns for rows."""
        order = np.argsort(self.index, kind="stable")  # a radix sort for 16 bits
        counts = np.bincount(self.index, minlength=self.width)
        rows = np.arange(len(self), dtype=index_dtype(len(self)))
        return SparseRows(
            offsets=_offsets(counts),
            index=np.repeat(rows, self.counts)[order],
            values=self.values[order],
            width=len(self),
        )


def index_dtype(width: int) -> np.dtype:
    """uint16 for rows of at most 65,536 columns, else uint32."""
    return np.dtype(np.uint16 if width <= LONGEST else np.uint32)


def compress(
    bits: np.ndarray, *, columns: bool = False, rows: np.ndarray | None = None
) -> SparseRows:
    """Finds the nonzeros of a matrix of bit patterns; zeros of either sign are left out.

    Some rows at a time, whose intermediate results fit the cache and need no new memory.

    Args:
        bits: The matrix.
        columns: Whether its columns become the rows of the result.
        rows: The rows of the matrix to take, by default all; not together with `columns`.
    """
    kept = None
    if rows is not None and 2 * len(rows) > len(bits) and (np.diff(rows) > 0).all():
        # Most of them, in order: marking the others takes less than a copy of these.
        kept = np.zeros(len(bits), dtype=bool)
        kept[rows] = True
        rows = None
    width, n_rows = bits.shape if columns else bits.shape[::-1]
    n_rows = n_rows if rows is None else len(rows)
    step = max(_TILE, _CACHED // max(1, width))
    pieces = []
    for start in range(0, max(1, n_rows), step):
        part = slice(start, start + step)
        chosen = part if rows is None else rows[part]
        pieces.append(
            _compress(transpose(bits[:, part]))
            if columns
            else _compress(bits[chosen], None if kept is None else kept[part])
        )
    return concat_rows(pieces)


def _compress(bits: np.ndarray, kept: np.ndarray | None = None) -> SparseRows:
    """The nonzeros of some whole rows; of those that are kept, if not of all."""
    n_rows, width = bits.shape
    bits = np.ascontiguousarray(bits)
    marked = bits != 0
    if kept is not None:
        marked[~kept] = False
    flat = np.flatnonzero(marked)
    values = bits.reshape(-1)[flat]
    minus_zero = values == 1 << (8 * bits.itemsize - 1)
    if minus_zero.any():
        flat, values = flat[~minus_zero], values[~minus_zero]
    starts = np.arange(n_rows + 1) * width
    offsets = np.searchsorted(flat, starts)
    # Both sides wrap around alike, so that their difference is right in 16 bits too.
    index = flat.astype(index_dtype(width))
    index -= np.repeat(starts[:-1].astype(index.dtype), np.diff(offsets))
    if kept is not None:  # the others are empty, so a row ends where the next kept one begins
        offsets = np.append(offsets[:-1][kept], offsets[-1])
    return SparseRows(offsets.astype(np.int64), index, values, width)


def concat_rows(pieces: Sequence[SparseRows]) -> SparseRows:
    """Concatenates matrices of one width along their rows."""
    if len(pieces) == 1:
        return pieces[0]
    return SparseRows(
        offsets=_offsets(np.concatenate([piece.counts for piece in pieces])),
        index=np.concatenate([piece.index for piece in pieces]),
        values=np.concatenate([piece.values for piece in pieces]),
        width=pieces[0].width,
    )


def concat_columns(pieces: Sequence[SparseRows]) -> SparseRows:
    """Concatenates matrices with equally many rows along their columns."""
    if len(pieces) == 1:
        return pieces[0]
    counts = np.stack([piece.counts for piece in pieces])
    offsets = _offsets(counts.sum(axis=0))
    width = sum(piece.width for piece in pieces)
    index = np.empty(offsets[-1], dtype=index_dtype(width))
    values = np.empty(offsets[-1], dtype=pieces[0].values.dtype)
    # Start of each piece's entries in each row of the result.
    at = offsets[:-1] + np.cumsum(counts, axis=0) - counts
    first = np.cumsum([0, *(piece.width for piece in pieces)])
    n_rows = counts.shape[1]
    step = max(1, n_rows * len(pieces) * _ENTRIES // max(1, int(offsets[-1])))
    for start in range(0, n_rows, step):  # some rows at a time, for the cache
        rows = slice(start, start + step)
        for number, piece in enumerate(pieces):
            entries = slice(piece.offsets[start], piece.offsets[min(start + step, n_rows)])
            target = np.repeat(at[number, rows] - piece.offsets[:-1][rows], counts[number, rows])
            target += np.arange(entries.start, entries.stop)
            index[target] = piece.index[entries] + index.dtype.type(first[number])
            values[target] = piece.values[entries]
    return SparseRows(offsets, index, values, width)


def transpose_in_pieces(rows: SparseRows) -> SparseRows:
    """`rows.transposed()`, with less memory for large matrices: sorts some rows at a time."""
    n_pieces = -(-len(rows.values) // _SORTED) or 1
    step = max(1, -(-len(rows) // n_pieces))
    pieces = []
    for start in range(0, max(1, len(rows)), step):
        offsets = rows.offsets[start : start + step + 1]
        entries = slice(offsets[0], offsets[-1])
        piece = SparseRows(
            offsets - offsets[0], rows.index[entries], rows.values[entries], rows.width
        )
        pieces.append(piece.transposed())
    return concat_columns(pieces)


def encoding_of(*, rows: int, width: int, nonzeros: int, itemsize: int) -> str:
    """The encoding that takes the fewest bytes: `index`, `bitmap` or `dense`, the first in a tie.

    `index` takes a column number and a value per nonzero, `bitmap` one bit per cell and a value per
    nonzero, `dense` a value per cell. With 16-bit numbers `index` is therefore the smallest up to
    one nonzero in 16 cells and, for 16-bit values, `dense` above 15 in 16.
    """
    sizes = _sizes(rows, width, nonzeros, itemsize)
    return min(sizes, key=lambda name: sizes[name])


def encoded_bytes(*, rows: int, width: int, nonzeros: int, itemsize: int) -> int:
    """Bytes of the arrays of the smallest encoding, offsets included."""
    sizes = _sizes(rows, width, nonzeros, itemsize)
    least = min(sizes.values())
    # `encoding_of` takes the first of equal sizes, and dense, the last one, has no offsets.
    return least + 8 * (rows + 1) * (least in (sizes["index"], sizes["bitmap"]))


def _sizes(rows: int, width: int, nonzeros: int, itemsize: int) -> dict[str, int]:
    return {
        "index": nonzeros * (index_dtype(width).itemsize + itemsize),
        "bitmap": rows * -(-width // 8) + nonzeros * itemsize,
        "dense": rows * width * itemsize,
    }


def pack(rows: SparseRows) -> dict[str, np.ndarray]:
    """The arrays of the smallest encoding.

    Returns:
        `offsets`, `index` and `values`; or `offsets`, `bits` (one byte per eight columns, the
        first in the lowest bit, each row from a new byte) and `values`; or only `values`, with two
        axes.
    """
    encoding = encoding_of(
        rows=len(rows),
        width=rows.width,
        nonzeros=len(rows.values),
        itemsize=rows.values.itemsize,
    )
    if encoding == "dense":
        return {"values": rows.dense()}
    if encoding == "index":
        return {"offsets": rows.offsets, "index": rows.index, "values": rows.values}
    bits = np.empty((len(rows), -(-rows.width // 8)), dtype=np.uint8)
    step = max(1, _CACHED // max(1, rows.width))
    for start in range(0, len(rows), step):
        stop = min(start + step, len(rows))
        entries = slice(rows.offsets[start], rows.offsets[stop])
        cells = np.zeros((stop - start) * rows.width, dtype=bool)
        counts = np.diff(rows.offsets[start : stop + 1])
        cells[np.repeat(np.arange(stop - start) * rows.width, counts) + rows.index[entries]] = True
        bits[start:stop] = np.packbits(
            cells.reshape(stop - start, rows.width), axis=1, bitorder="little"
        )
    return {"offsets": rows.offsets, "bits": bits, "values": rows.values}


def unpack(
    arrays: Mapping[str, np.ndarray], which: Sequence[int] | slice, *, width: int
) -> SparseRows:
    """Decodes some rows, reading only their bytes.

    Args:
        arrays: The result of `pack`, with offsets that have been checked.
        which: The rows, in any order, or a slice of them.
        width: Columns of the matrix.

    Raises:
        StoreDamaged: Columns out of range or out of order, or bits that contradict the offsets.
    """
    values = arrays["values"]
    if "offsets" not in arrays:
        return compress(values[which])
    offsets = arrays["offsets"]
    chosen = np.arange(len(offsets) - 1)[which]
    counts = offsets[chosen + 1] - offsets[chosen]
    new = _offsets(counts)
    if "bits" in arrays:
        index = _set_bits(arrays["bits"], chosen, counts, width)
    else:
        index = _gather(arrays["index"], offsets, chosen)
        _check_rising(index, new, width)
    return SparseRows(new, index, _gather(values, offsets, chosen), width)


def unpack_columns(
    arrays: Mapping[str, np.ndarray], start: int, stop: int, *, width: int
) -> SparseRows:
    """Decodes a range of columns of all rows, without the others.

    Raises:
        StoreDamaged: As for `unpack`.
    """
    values = arrays["values"]
    if "offsets" not in arrays:
        return compress(values[:, start:stop])
    offsets = arrays["offsets"]
    if "bits" in arrays:
        bits = arrays["bits"]
        first = start // 8
        low = offsets[:-1] + np.bitwise_count(bits[:, :first]).sum(axis=1, dtype=np.int64)
        cells = np.unpackbits(bits[:, first : -(-stop // 8)], axis=1, bitorder="little")
        low += np.count_nonzero(cells[:, : start - 8 * first], axis=1)
        cells = cells[:, start - 8 * first : stop - 8 * first]
        high = low + np.count_nonzero(cells, axis=1)
        if (high > offsets[1:]).any():
            raise StoreDamaged("its bitmap and its offsets disagree on the number of nonzeros")
        index = (np.flatnonzero(cells) % max(1, stop - start)).astype(index_dtype(stop - start))
        return SparseRows(_offsets(high - low), index, values[_runs(low, high)], stop - start)
    low = _first_at_least(arrays["index"], offsets, start)
    high = _first_at_least(arrays["index"], offsets, stop)
    entries = _runs(low, np.maximum(low, high))
    index, new = arrays["index"][entries], _offsets(np.maximum(high - low, 0))
    if len(index) and (index.min() < start or index.max() >= stop):
        raise StoreDamaged("its indices do not rise within a row")
    index = (index - index.dtype.type(start)).astype(index_dtype(stop - start))
    _check_rising(index, new, stop - start)
    return SparseRows(new, index, values[entries], stop - start)


def _first_at_least(index: np.ndarray, offsets: np.ndarray, column: int) -> np.ndarray:
    """For each row the first entry whose column is at least `column`, by binary search."""
    low, high = offsets[:-1].copy(), offsets[1:].copy()
    while (searching := np.flatnonzero(low < high)).size:
        middle = (low[searching] + high[searching]) // 2
        below = index[middle] < column
        low[searching[below]] = middle[below] + 1
        high[searching[~below]] = middle[~below]
    return low


def _runs(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The numbers from low[i] up to high[i], concatenated."""
    counts = high - low
    return np.arange(counts.sum()) + np.repeat(low - _offsets(counts)[:-1], counts)


def _gather(entries: np.ndarray, offsets: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    if len(chosen) and np.array_equal(chosen, np.arange(chosen[0], chosen[0] + len(chosen))):
        return entries[offsets[chosen[0]] : offsets[chosen[-1] + 1]]
    parts = [entries[offsets[row] : offsets[row + 1]] for row in chosen]
    return np.concatenate(parts) if parts else entries[:0]


def _set_bits(bits: np.ndarray, chosen: np.ndarray, counts: np.ndarray, width: int) -> np.ndarray:
    parts = []
    step = max(1, _CACHED // max(1, width))
    for start in range(0, len(chosen), step):
        rows = chosen[start : start + step]
        cells = np.unpackbits(bits[rows], axis=1, bitorder="little")
        if cells[:, width:].any():
            raise StoreDamaged("its bitmap has bits beyond the last column")
        cells = cells[:, :width].view(bool)
        expected = counts[start : start + step]
        if not np.array_equal(np.count_nonzero(cells, axis=1), expected):
            raise StoreDamaged("its bitmap and its offsets disagree on the number of nonzeros")
        flat = np.flatnonzero(cells)
        index = flat.astype(index_dtype(width))
        index -= np.repeat((np.arange(len(rows)) * width).astype(index.dtype), expected)
        parts.append(index)
    return np.concatenate(parts) if parts else np.empty(0, dtype=index_dtype(width))


def _check_rising(index: np.ndarray, offsets: np.ndarray, width: int) -> None:
    if not len(index):
        return
    if int(index.max()) >= width:
        raise StoreDamaged(f"it has an index of {int(index.max())} where there are {width} columns")
    falls = np.flatnonzero(index[1:] <= index[:-1]) + 1
    if (offsets[np.searchsorted(offsets, falls)] != falls).any():  # at a row's first entry alone
        raise StoreDamaged("its indices do not rise within a row")


def _offsets(counts: np.ndarray) -> np.ndarray:
    offsets = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets
