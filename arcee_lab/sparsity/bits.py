"""Which neurons fire as bits, and as a list: what the analyses count from on a CPU.

A bit a neuron makes sets of words of 64: unions, intersections and empty blocks of many tokens cost
less than reading the activations once. What needs values goes through the neurons that fire, a
tenth of all or less. Finding them on a GPU would make the host wait; there the analyses use torch's
dense operations instead, and get the same numbers.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8, UInt64

_WHOLE = 16  # bytes: rows are filled with zeros to a multiple of 128 neurons


@dataclass(frozen=True, eq=False)
class Firings:
    """The neurons that fire, token after token.

    Attributes:
        starts: Where each token's begin in the list, and where the last one's end.
        places: Where they lie in the flattened `[token, d_mlp]`.
        neurons: Their numbers, ascending within a token.
        values: a of each; fp32, or fp64 where the model computes in it.
        written: ‖n_i‖ = a_i ‖w_i‖ of each.
    """

    starts: Int[np.ndarray, " token_and_end"]
    places: Int[np.ndarray, " firing"]
    neurons: Int[np.ndarray, " firing"]
    values: Float[np.ndarray, " firing"]
    written: Float[np.ndarray, " firing"]

    def sums(self, x: Float[np.ndarray, " firing"]) -> Float[np.ndarray, " token"]:
        """Sums over each token's neurons, in double precision."""
        return _reduced(np.add, x.astype(np.float64, copy=False), self.starts)

    def largest(self, x: Float[np.ndarray, " firing"]) -> Float[np.ndarray, " token"]:
        """The largest of each token's neurons; 0 where none fires."""
        return _reduced(np.maximum, x, self.starts)


def pack(mask: Bool[np.ndarray, "token d_mlp"]) -> UInt8[np.ndarray, "token byte"]:
    """Eight neurons a byte, the first in the highest bit; rows filled up to whole 16 bytes."""
    packed = np.packbits(mask, axis=1)
    missing = -packed.shape[1] % _WHOLE
    return np.pad(packed, ((0, 0), (0, missing))) if missing else packed


def unpack(packed: UInt8[np.ndarray, "*any byte"], d_mlp: int) -> Bool[np.ndarray, "*any d_mlp"]:
    """What `pack` packed."""
    return np.unpackbits(packed, axis=-1, count=d_mlp).astype(bool)


def words(packed: UInt8[np.ndarray, "token byte"]) -> UInt64[np.ndarray, "token word"]:
    """The same 64 neurons at a time."""
    return packed.view(np.uint64)


def count(packed: UInt8[np.ndarray, "token byte"]) -> Int[np.ndarray, " token"]:
    """How many neurons fire at each token."""
    return np.bitwise_count(words(packed)).sum(1, dtype=np.int64)


def _reduced(how: np.ufunc, x: np.ndarray, starts: np.ndarray) -> np.ndarray:
    found = np.zeros(len(starts) - 1, x.dtype)
    some = np.diff(starts) > 0  # reduceat gives an empty stretch the element that follows it
    if some.any():
        found[some] = how.reduceat(x, starts[:-1][some])
    return found
