"""Which neurons fire as bits, and as a list: what the analyses count from on a CPU.

With one bit per neuron, words of 64 bits are sets: unions, intersections and empty blocks of many
tokens cost less than reading the activations once. What needs values goes through the neurons that
fire, a tenth of all or less. Finding them on a GPU would make the host wait; there the analyses use
torch's dense operations instead, and get the same numbers.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8, UInt64
from torch import Tensor

TOGETHER = 2**17  # activations that a CPU's cache holds, with what is made of them
_WHOLE = 16  # bytes: rows are filled with zeros to a multiple of 128 neurons


@dataclass(frozen=True, eq=False)
class TokenFirings:
    """The neurons that fire, token after token.

    Attributes:
        mask: Where they are.
        starts: Where each token's begin in the list, and where the last one's end.
        written: ‖n_i‖ = a_i ‖w_i‖ of each; fp32, or fp64 where the model computes in it.
    """

    mask: Bool[np.ndarray, "token d_mlp"]
    starts: Int[np.ndarray, " token_and_end"]
    written: Float[np.ndarray, " firing"]

    @cached_property
    def places(self) -> Int[np.ndarray, " firing"]:
        """Where they are in the flattened `[token, d_mlp]`."""
        return np.flatnonzero(self.mask)

    def sums(self, x: Float[np.ndarray, " firing"]) -> Float[np.ndarray, " token"]:
        """Sums over each token's neurons, in double precision."""
        return _reduced(np.add, x.astype(np.float64, copy=False), self.starts)

    def largest(self, x: Float[np.ndarray, " firing"]) -> Float[np.ndarray, " token"]:
        """The largest of each token's neurons; 0 where none fires."""
        return _reduced(np.maximum, x, self.starts)


def pack(mask: Bool[np.ndarray, "token d_mlp"]) -> UInt8[np.ndarray, "token byte"]:
    """Eight neurons per byte, the first in the highest bit; rows filled up to whole 16 bytes."""
    packed = np.packbits(mask, axis=1)
    missing = -packed.shape[1] % _WHOLE
    return np.pad(packed, ((0, 0), (0, missing))) if missing else packed


def pack_tensor(masks: Bool[Tensor, "*any d_mlp"]) -> UInt8[Tensor, "*any byte"]:
    """Eight neurons per byte, as `pack`, on any device; rows are filled up to whole bytes only."""
    if masks.device.type == "cpu":
        return torch.from_numpy(np.packbits(masks.numpy(), axis=-1))
    padded = torch.nn.functional.pad(masks.to(torch.uint8), (0, -masks.shape[-1] % 8))
    places = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8)
    places = places.to(masks.device, non_blocking=True)
    return (padded.unflatten(-1, (-1, 8)) * places).sum(-1, dtype=torch.uint8)


def unpack(packed: UInt8[np.ndarray, "*any byte"], d_mlp: int) -> Bool[np.ndarray, "*any d_mlp"]:
    """What `pack` packed."""
    return np.unpackbits(packed, axis=-1, count=d_mlp).astype(bool)


def words(packed: UInt8[np.ndarray, "token byte"]) -> UInt64[np.ndarray, "token word"]:
    """The same 64 neurons at a time."""
    return packed.view(np.uint64)


def count(packed: UInt8[np.ndarray, "token byte"]) -> Int[np.ndarray, " token"]:
    """How many neurons fire at each token."""
    return np.bitwise_count(words(packed)).sum(1, dtype=np.int64)


def pick(
    rows: Int[np.ndarray, "row column"],
    mask: Bool[np.ndarray, "row column"],
    *companions: Shaped[np.ndarray, "row column"],
    into: np.ndarray | None = None,
) -> tuple[Int[np.ndarray, " row"], Int[np.ndarray, " picked"], list[np.ndarray]]:
    """Nonzero counts per row, the nonzero values, and the companions' values at those places.

    In a third of the time that `rows[mask]` takes: first those fours of neighbours are taken of
    which one is not 0, then these one by one. The cost depends little on how zeros are mixed in.

    Args:
        rows: Numbers.
        mask: Where they are not 0.
        *companions: More numbers, of any kind.
        into: Where the nonzero values are written, from the start; by default to a new array.
    """
    columns = rows.shape[1]
    tables = [x.reshape(-1) for x in (rows, *companions)]
    if columns % 4 == 0:  # so that no group of four spans two rows
        some = np.flatnonzero(mask.reshape(-1).view(np.uint32) != 0)
        # Clipping costs less than the check that it replaces; nothing is out of bounds.
        fours = [x.view(f"V{4 * x.itemsize}").take(some, mode="clip") for x in tables]
        tables = [x.view(y.dtype) for x, y in zip(fours, tables, strict=True)]
        ends = 4 * some.searchsorted(np.arange(columns // 4, rows.size // 4 + 1, columns // 4))
        mask = tables[0] != 0
    else:
        ends = np.arange(columns, rows.size + 1, columns)
    where = np.flatnonzero(mask)
    counts = where.searchsorted(ends)
    counts[1:] -= counts[:-1].copy()
    buffer = None if into is None else into[: len(where)]
    picked = tables[0].take(where, out=buffer, mode="clip")
    return counts, picked, [x.take(where, mode="clip") for x in tables[1:]]


def _reduced(how: np.ufunc, x: np.ndarray, starts: np.ndarray) -> np.ndarray:
    found = np.zeros(len(starts) - 1, x.dtype)
    some = np.diff(starts) > 0  # reduceat gives an empty stretch the element that follows it
    if some.any():
        found[some] = how.reduceat(x, starts[:-1][some])
    return found
