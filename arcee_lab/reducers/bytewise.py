"""How often each unit fires, counted in bytes: on a CPU the way that moves the least memory.

A comparison into floats and a product with the mask write and read four bytes a value; NumPy
compares into one. The rows of a piece are then folded in halves, byte by byte, until one is left.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_ROWS = 128  # a power of two, and few enough for a byte to count them
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
    above = np.empty((_ROWS, x.shape[1]), bool)
    counts = above.view(np.uint8)
    for start in range(0, len(values), _ROWS):
        real = counted[start : start + _ROWS]
        if not real.any():  # padding comes in runs
            continue
        here = above[: len(real)]
        np.greater(values[start : start + _ROWS], 0, out=here)
        if not real.all():
            here &= real[:, None]
        above[len(real) :] = False
        half = _ROWS // 2
        while half:
            np.add(counts[:half], counts[half : 2 * half], out=counts[:half])
            half //= 2
        fired += counts[0]
    return torch.from_numpy(fired)
