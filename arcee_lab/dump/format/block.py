"""The content of one shard file of a site: tensors that can be read by unit or by token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from arcee_lab.dump.format import sparse
from arcee_lab.dump.format.int8 import dequantise
from arcee_lab.dump.format.sparse import SparseRows

UNIT, TOKEN = "by_unit.", "by_token."


@dataclass(frozen=True)
class Block:
    """The activations of one site at up to 65,536 tokens.

    Attributes:
        tensors: By name. `by_unit.*` has one row per unit and `by_token.*` one row per token; each
            half has one of the encodings of `arcee_lab.dump.format.sparse`, or `values` and
            `scales` of int8.
        tokens: Tokens in the block.
        width: Units.
        dtype: The site's dtype.
        nonzeros: Values that are not zero; None if the layout does not count them.
    """

    tensors: Mapping[str, Tensor]
    tokens: int
    width: int
    dtype: torch.dtype
    nonzeros: int | None

    @property
    def bytes(self) -> int:
        """Bytes of all tensors together."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def encoding(self) -> str:
        """`index`, `bitmap`, `dense` or `int8`."""
        for name in self.tensors:
            for ending, word in (("index", "index"), ("bits", "bitmap"), ("scales", "int8")):
                if name.endswith("." + ending):
                    return word
        return "dense"

    def units(self, which: Sequence[int] | slice) -> SparseRows:
        """The nonzeros of some units: one row per unit, one column per token.

        Raises:
            StoreDamaged: The block is damaged.
        """
        half = self._half(UNIT)
        if half is None:
            columns = self.dense()[:, which].t().contiguous()
            return sparse.compress(sparse.to_bits(columns))
        return sparse.unpack(half, which, width=self.tokens)

    def span(self, start: int, stop: int) -> SparseRows:
        """The nonzeros of the tokens from `start` to `stop`: a row per token, a column per unit.

        Raises:
            StoreDamaged: The block is damaged.
        """
        half = self._half(TOKEN)
        if TOKEN + "scales" in self.tensors:
            return sparse.compress(sparse.to_bits(self.dense(start, stop)))
        if half is not None:
            return sparse.unpack(half, slice(start, stop), width=self.width)
        half = self._half(UNIT)
        assert half is not None, "a block is stored by unit or by token"
        return sparse.unpack_columns(half, start, stop, width=self.tokens).transposed()

    def dense(self, start: int = 0, stop: int | None = None) -> Float[Tensor, "token width"]:
        """All values of the tokens from `start` to `stop`; float32 if they are stored as int8.

        Raises:
            StoreDamaged: The block is damaged.
        """
        stop = self.tokens if stop is None else stop
        if TOKEN + "scales" in self.tensors:
            rows = slice(start, stop)
            return dequantise(
                self.tensors[TOKEN + "values"][rows], self.tensors[TOKEN + "scales"][rows]
            )
        half = self._half(TOKEN)
        if half is not None:
            if "offsets" not in half:
                return self.tensors[TOKEN + "values"][start:stop]
            rows = sparse.unpack(half, slice(start, stop), width=self.width)
            return sparse.from_bits(rows.dense(), self.dtype)
        half = self._half(UNIT)
        assert half is not None, "a block is stored by unit or by token"
        if "offsets" not in half:
            return self.tensors[UNIT + "values"][:, start:stop].t()
        columns = sparse.unpack_columns(half, start, stop, width=self.tokens)
        return sparse.from_bits(columns.dense(), self.dtype).t()

    def _half(self, prefix: str) -> dict[str, np.ndarray] | None:
        """The arrays of one half; None if the block lacks it."""
        names = [name for name in self.tensors if name.startswith(prefix)]
        if not names or prefix + "scales" in names:
            return None
        return {
            name.removeprefix(prefix): (
                sparse.to_bits(self.tensors[name])
                if name.endswith(".values")
                else self.tensors[name].numpy()
            )
            for name in names
        }
