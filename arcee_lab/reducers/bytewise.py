"""How often each unit fires, counted in bytes: on a CPU the way that moves the least memory.

A comparison into floats and a product with the mask write and read four bytes a value; NumPy
compares into one, a piece of rows at a time, and adds up the rows of the piece as bytes.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_ROWS = 64  # of a piece: it stays in the cache, and a byte can count them
_DTYPES = (torch.float32, torch.float64)  # of the others NumPy has no fast comparison


def counts_bytewise(x: Tensor) -> bool:
    """Whether `fired_bytewise` takes this: values in a CPU's memory, no compiled graph."""
    plain = type(x) is Tensor and x.device.type == "cpu" and x.dtype in _DTYPES
    return plain and not torch.compiler.is_compiling()


def fired_bytewise(
    x: Float[Tensor, "token width"], mask: Bool[Tensor, " token"]
) -> Int[Tensor, " width"]:
    """On how many of the tokens in the mask each unit is above 0; NaN is not."""
    values, counted = x.numpy(), mask.numpy()
    fired = np.zeros(x.shape[1], np.int64)
    above = np.empty((min(_ROWS, len(values)), x.shape[1]), bool)
    starts = range(0, len(values), _ROWS)
    reals = np.add.reduceat(counted, starts, dtype=np.int64).tolist() if starts else []
    for start, real in zip(starts, reals, strict=True):
        if not real:  # padding comes in runs
            continue
        piece = values[start : start + _ROWS]
        here = above[: len(piece)]
        np.greater(piece, 0, out=here)
        if real < len(piece):
            here &= counted[start : start + _ROWS, None]
        fired += np.add.reduce(here.view(np.uint8), axis=0, dtype=np.uint8)
    return torch.from_numpy(fired)
