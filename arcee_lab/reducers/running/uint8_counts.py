"""How often each unit fires, counted in bytes: on a CPU the way that moves the least memory.

A comparison into floats and a product with the mask write and read four bytes per value; NumPy
compares into one, a piece of rows at a time, and adds up the rows of the piece as bytes. Between
the products of a forward every call starts from a cold cache, so there are few calls.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_ROWS = 64  # of a piece: it stays in the cache, and a byte can count them
_DTYPES = (torch.float32, torch.float64)  # of the others NumPy has no fast comparison


class _Pieces(NamedTuple):
    """The rows of a mask, piece by piece.

    Attributes:
        real: Of all rows, whether they count.
        bounds: First row and end of each piece in which any does, and whether all of its rows do.
        tokens: Rows that count.
    """

    real: np.ndarray
    bounds: list[tuple[int, int, bool]]
    tokens: int


def counts_bytewise(x: Tensor) -> bool:
    """Whether `add_bytewise` takes this: values in a CPU's memory, no compiled graph."""
    plain = type(x) is Tensor and x.device.type == "cpu" and x.dtype in _DTYPES
    return plain and not torch.compiler.is_compiling()


def add_bytewise(
    fired: Int[Tensor, "*features"],
    x: Float[Tensor, "batch pos *features"],
    mask: Bool[Tensor, "batch pos"],
) -> int:
    """Adds to `fired` on how many of the tokens in the mask each unit is above 0; NaN is not.

    Returns:
        The tokens in the mask.
    """
    pieces = _pieces_of(mask)
    counts = fired.view(-1).numpy()
    values = x.numpy().reshape(len(pieces.real), len(counts))
    above = np.empty((min(_ROWS, len(values)), len(counts)), bool)
    for start, end, whole in pieces.bounds:
        here = above[: end - start]
        np.greater(values[start:end], 0, out=here)
        if not whole:
            here &= pieces.real[start:end, None]
        counts += np.add.reduce(here.view(np.uint8), axis=0, dtype=np.uint8)
    return pieces.tokens


def _pieces_of(mask: Bool[Tensor, "batch pos"]) -> _Pieces:
    # Kept on the mask, which all sites of a call share.
    kept = getattr(mask, "_pieces", None)
    if kept is None:
        real = mask.numpy().reshape(-1)
        bounds, tokens = [], 0
        for start in range(0, len(real), _ROWS):
            end = min(start + _ROWS, len(real))
            count = int(np.count_nonzero(real[start:end]))
            if count:  # padding comes in runs
                bounds.append((start, end, count == end - start))
                tokens += count
        kept = mask._pieces = _Pieces(real, bounds, tokens)  # type: ignore[attr-defined]
    return kept
