"""From the activations of one site to the tensors of its shard, and back, exactly.

`neuron`  the nonzeros sorted by unit: "when does this neuron fire" reads only that neuron's bytes
`both`    the same, and again sorted by token: "what fires at this token" is as fast, for twice the
          bytes
`dense`   every value, token by token
`int8`    one byte per value and a float32 scale per token: each value is off by at most half a
          scale, which is its token's largest magnitude / 254

The nonzeros are stored in the smallest of three encodings at a shard's density; see
`arcee_lab.dump.format.sparse.encoding_of`. Only `dense` keeps the sign of a zero.
"""

import itertools
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from arcee_lab.dump.format import sparse
from arcee_lab.dump.format.block import TOKEN, UNIT, Block
from arcee_lab.dump.format.int8 import quantise
from arcee_lab.dump.format.sparse import SparseRows
from arcee_lab.errors import SettingError

LAYOUTS = ("neuron", "both", "dense", "int8")
SPARSE_LAYOUTS = ("neuron", "both")
MOST_TOKENS = sparse.LONGEST  # of a shard: a token's number within it takes 16 bits


class Builder:
    """Collects the activations of one site batch by batch, compressed, until a shard is full.

    Tokens may arrive in any order. Rows of a CPU's activations are compressed as they come and
    sorted by unit once per shard. A GPU's activations come transposed, so they are compressed by
    unit piece by piece.

    Example:
        >>> import torch
        >>> from arcee_lab.dump.format.layouts import Builder
        >>> builder = Builder("neuron", width=2, dtype=torch.float32)
        >>> builder.add(torch.tensor([[0.0, 1.5], [0.0, 0.0], [0.5, 0.0]]))
        >>> block = builder.finish()
        >>> block.nonzeros, block.dense().tolist()
        (2, [[0.0, 1.5], [0.0, 0.0], [0.5, 0.0]])
    """

    def __init__(
        self, layout: str, *, width: int, dtype: torch.dtype, refuse_infinite: bool = False
    ):
        if layout not in LAYOUTS:
            raise SettingError(f"layout is {layout!r}; expected one of {', '.join(LAYOUTS)}.")
        self._layout = layout
        self._width = width
        self._dtype = dtype
        self._refuse_infinite = refuse_infinite
        self.tokens = 0
        self._positions: list[np.ndarray] = []  # in the shard, of the tokens of each part below
        self._rows: list[SparseRows] = []
        self._columns: list[SparseRows] = []
        self._dense: list[Tensor] = []

    def add(
        self,
        x: Float[Tensor, "token width"],
        *,
        rows: np.ndarray | None = None,
        at: np.ndarray | int | None = None,
    ) -> int:
        """Adds some tokens; the tensor may be changed afterwards.

        Args:
            x: Activations on the CPU, in the site's dtype.
            rows: The rows of `x` that are tokens of the shard; by default all.
            at: The position in the shard of each of these tokens, or of the first of contiguous
                ones; by default after the tokens added so far.

        Returns:
            How many of the values are NaN, or with `refuse_infinite` NaN or infinite. They are
            stored like any other.

        Raises:
            SettingError: Another width or dtype, or more than 65,536 tokens in all.
        """
        if x.shape[1] != self._width or x.dtype != self._dtype:
            raise SettingError(
                f"got {list(x.shape)} {x.dtype}; expected width {self._width} and {self._dtype}."
            )
        n = len(x) if rows is None else len(rows)
        if self.tokens + n > MOST_TOKENS:
            raise SettingError(
                f"a shard of {self.tokens + n} tokens; expected at most {MOST_TOKENS}."
            )
        if not isinstance(at, np.ndarray):
            at = np.arange(n) + (self.tokens if at is None else at)
        if rows is not None and n == len(x) and (np.diff(rows) == 1).all():
            rows = None  # every token of the batch, in order
        self.tokens += n
        bits = sparse.to_bits(x)
        if self._layout not in SPARSE_LAYOUTS:
            bits = bits.copy(order="C") if rows is None else bits[rows]
            self._dense.append(sparse.from_bits(bits, self._dtype))
            self._positions.append(at)
            return sparse.count_nan(bits, self._dtype, infinite=self._refuse_infinite)
        if self._by_columns(bits):
            return self._add_columns(bits, np.arange(n) if rows is None else rows, at)
        part = sparse.compress(bits, rows=rows)
        self._rows.append(part)
        self._positions.append(at)
        return self._count(part)

    def _count(self, part: SparseRows) -> int:
        return sparse.count_nan(part.values, self._dtype, infinite=self._refuse_infinite)

    def _by_columns(self, bits: np.ndarray) -> bool:
        """Whether this shard is compressed by unit; its first part decides."""
        if self._rows or self._columns:
            return bool(self._columns)
        return bits.T.flags.c_contiguous and not bits.flags.c_contiguous

    def _add_columns(self, bits: np.ndarray, rows: np.ndarray, at: np.ndarray) -> int:
        """Compresses each piece of contiguous tokens by unit."""
        breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(at) != 1)) + 1
        n_nan = 0
        for low, high in itertools.pairwise([0, *breaks.tolist(), len(rows)]):
            part = sparse.compress(bits[rows[low] : rows[high - 1] + 1], columns=True)
            self._columns.append(part)
            self._positions.append(at[low:high])
            n_nan += self._count(part)
        return n_nan

    @property
    def bytes(self) -> int:
        """Bytes held in memory."""
        held = sum(
            part.offsets.nbytes + part.index.nbytes + part.values.nbytes
            for part in [*self._rows, *self._columns]
        )
        return held + sum(x.nbytes for x in self._dense)

    def finish(self) -> Block:
        """Returns the block and starts the next one."""
        if not self.tokens:
            self.add(torch.zeros(0, self._width, dtype=self._dtype))
        positions = np.concatenate(self._positions)
        order = np.argsort(positions, kind="stable")
        assert np.array_equal(positions[order], np.arange(self.tokens)), (
            "tokens of a shard are missing, or were added twice"
        )
        tensors: dict[str, Tensor] = {}
        nonzeros = None
        if self._layout in SPARSE_LAYOUTS:
            by_unit, by_token = self._sorted(order)
            nonzeros = len(by_unit.values)
            tensors |= _named(UNIT, by_unit, self._dtype)
            if self._layout == "both":
                tensors |= _named(TOKEN, by_token(), self._dtype)
        else:
            x = torch.empty(self.tokens, self._width, dtype=self._dtype)
            for part, at in zip(self._dense, self._positions, strict=True):
                x[torch.from_numpy(at)] = part
            if self._layout == "int8":
                tensors[TOKEN + "values"], tensors[TOKEN + "scales"] = quantise(x)
            else:
                tensors[TOKEN + "values"] = x
        block = Block(tensors, self.tokens, self._width, self._dtype, nonzeros)
        self.tokens = 0
        self._positions, self._rows, self._columns, self._dense = [], [], [], []
        return block

    def _sorted(self, order: np.ndarray) -> tuple[SparseRows, Callable[[], SparseRows]]:
        """The nonzeros by unit, and what makes them by token, both in the order of the shard."""
        if self._columns:
            first = [int(at[0]) for at in self._positions]
            parts = [self._columns[part] for part in np.argsort(first)]
            by_unit = sparse.concat_columns(parts)
            return by_unit, by_unit.transposed
        rows = sparse.concat_rows(self._rows)
        self._rows = []  # their memory is needed for what follows
        if (np.diff(order) != 1).any():
            rows = rows.take(order)
        return sparse.transpose_in_pieces(rows), lambda: rows


def least_bytes(layout: str, *, tokens: int, width: int, itemsize: int, nonzeros: int) -> int:
    """Bytes of all tensors of a block: its file has at least so many.

    Args:
        layout: One of `LAYOUTS`.
        tokens: Tokens of the block.
        width: Values per token.
        itemsize: Bytes per value.
        nonzeros: Values that are not zero, if the layout counts them.
    """
    if layout == "int8":
        return tokens * (width + 4)
    if layout == "dense":
        return tokens * width * itemsize
    halves = [(width, tokens)] + ([(tokens, width)] if layout == "both" else [])
    return sum(
        sparse.encoded_bytes(rows=rows, width=columns, nonzeros=nonzeros, itemsize=itemsize)
        for rows, columns in halves
    )


def enough_bytes(layout: str, *, width: int, itemsize: int) -> tuple[int, int, int]:
    """Bytes that are enough for any block, and quick to compute for many.

    `least_bytes` is never more than the first number times the nonzeros, plus the second times the
    tokens, plus the third: the size of the `index` encoding, which the smallest does not exceed.
    """
    if layout == "int8":
        return 0, width + 4, 0
    if layout == "dense":
        return 0, width * itemsize, 0
    each, offsets = sparse.index_dtype(MOST_TOKENS).itemsize + itemsize, 8 * (width + 1)
    if layout == "neuron":
        return each, 0, offsets
    return each + sparse.index_dtype(width).itemsize + itemsize, 8, offsets + 8


def encode(x: Float[Tensor, "token width"], layout: str = "neuron") -> Block:
    """The block of one tensor; `Builder` does the same batch by batch.

    Args:
        x: Activations on the CPU; at most 65,536 tokens.
        layout: One of `LAYOUTS`.
    """
    builder = Builder(layout, width=x.shape[1], dtype=x.dtype)
    builder.add(x)
    return builder.finish()


def _named(prefix: str, rows: SparseRows, dtype: torch.dtype) -> dict[str, Tensor]:
    return {
        prefix + name: sparse.from_bits(array, dtype)
        if name == "values"
        else torch.from_numpy(array)
        for name, array in sparse.pack(rows).items()
    }
