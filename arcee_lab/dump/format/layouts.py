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

from typing import TypeVar

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
Chunk = TypeVar("Chunk", SparseRows, Tensor)
MOST_TOKENS = sparse.LONGEST  # of a shard: a token's number within it takes 16 bits


class Builder:
    """Collects the activations of one site batch by batch, compressed, until a shard is full.

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
        self._by_unit: dict[int, SparseRows] = {}
        self._by_token: dict[int, SparseRows] = {}
        self._dense: dict[int, Tensor] = {}

    def add(self, x: Float[Tensor, "token width"], *, at: int | None = None) -> int:
        """Adds some tokens; the tensor may be changed afterwards.

        Args:
            x: Activations on the CPU, in the site's dtype. Half of the work is a transposition,
                which is saved if `x.t()` is contiguous.
            at: Position of the first token in the shard; by default after the tokens added so far.

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
        if self.tokens + len(x) > MOST_TOKENS:
            raise SettingError(
                f"a shard of {self.tokens + len(x)} tokens; expected at most {MOST_TOKENS}."
            )
        at = self.tokens if at is None else at
        self.tokens += len(x)
        bits = sparse.to_bits(x)
        if self._layout not in SPARSE_LAYOUTS:
            bits = bits.copy(order="C")
            self._dense[at] = sparse.from_bits(bits, self._dtype)
            return sparse.count_nan(bits, self._dtype, infinite=self._refuse_infinite)
        rows = self._by_unit[at] = sparse.compress(bits, columns=True)
        if self._layout == "both":
            self._by_token[at] = sparse.compress(bits)
        return sparse.count_nan(rows.values, self._dtype, infinite=self._refuse_infinite)

    @property
    def bytes(self) -> int:
        """Bytes held in memory."""
        sparse_rows = [*self._by_unit.values(), *self._by_token.values()]
        held = sum(r.offsets.nbytes + r.index.nbytes + r.values.nbytes for r in sparse_rows)
        return held + sum(x.nbytes for x in self._dense.values())

    def finish(self) -> Block:
        """Returns the block and starts the next one."""
        if not self.tokens:
            self.add(torch.zeros(0, self._width, dtype=self._dtype))
        tensors: dict[str, Tensor] = {}
        nonzeros = None
        if self._layout in SPARSE_LAYOUTS:
            by_unit = sparse.concat_columns(self._in_order(self._by_unit))
            nonzeros = len(by_unit.values)
            tensors |= _named(UNIT, by_unit, self._dtype)
            if self._layout == "both":
                tensors |= _named(
                    TOKEN, sparse.concat_rows(self._in_order(self._by_token)), self._dtype
                )
        else:
            x = torch.cat(self._in_order(self._dense))
            if self._layout == "int8":
                tensors[TOKEN + "values"], tensors[TOKEN + "scales"] = quantise(x)
            else:
                tensors[TOKEN + "values"] = x
        block = Block(tensors, self.tokens, self._width, self._dtype, nonzeros)
        self.tokens, self._by_unit, self._by_token, self._dense = 0, {}, {}, {}
        return block

    def _in_order(self, parts: dict[int, Chunk]) -> list[Chunk]:
        """The added parts in the order of their tokens; each token was added once."""
        end = 0
        for at in sorted(parts):
            assert at == end, f"tokens {end} to {at} of a shard are missing, or were added twice"
            part = parts[at]
            end += (
                part.width if isinstance(part, SparseRows) and parts is self._by_unit else len(part)
            )
        return [parts[at] for at in sorted(parts)]


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
