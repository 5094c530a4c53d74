"""Sums for means and variances on a CPU, in fp64 around a shift, a few rows at a time.

The shift, about the mean of a unit, keeps a mean that is large compared with the spread from
cancelling: with d = x - shift, the mean is shift + Σd / N, and the sum of squares around it is
Σd² - (Σd)² / N.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

_ELEMENTS = 2**17  # looked at together, which stay in the cache in fp64


def fits(x: Tensor) -> bool:
    """Whether `moments` takes this: values in a CPU's memory, no compiled graph."""
    plain = type(x) is Tensor and x.device.type == "cpu" and x.is_floating_point()
    return plain and not torch.compiler.is_compiling()


def moments(
    x: Float[Tensor, "batch pos *features"], token_mask: Bool[Tensor, "batch pos"]
) -> dict[str, Tensor] | None:
    """The state of `Moments` of the tokens of a call, with one axis of units.

    Args:
        x: The activations.
        token_mask: Tokens that count.

    Returns:
        None where no token counts.
    """
    flat = x.flatten(0, 1).flatten(1)
    real, width = token_mask.numpy().reshape(-1), flat.shape[1]
    rows = max(1, _ELEMENTS // max(1, width))
    room = np.empty((rows, width))
    total, squares = np.zeros((2, width))
    largest = np.full(width, -np.inf)
    shift, n_tokens = None, 0
    for start in range(0, len(real), rows):
        counts = real[start : start + rows]
        if not counts.any():
            continue
        some = flat[start : start + rows]
        # NumPy has no bfloat16, and is slow in float16.
        some = (some if some.dtype in (torch.float32, torch.float64) else some.float()).numpy()
        if not counts.all():
            some = some[counts]
        if shift is None:
            shift = some.mean(0, dtype=np.float64)
            shift[~np.isfinite(shift)] = 0  # infinity less infinity would be no number
        n_tokens += len(some)
        np.maximum(largest, np.maximum.reduce(some, axis=0), out=largest)
        apart = room[: len(some)]
        np.subtract(some, shift, out=apart)
        total += np.add.reduce(apart, axis=0)
        np.multiply(apart, apart, out=apart)
        squares += np.add.reduce(apart, axis=0)
    if shift is None:
        return None
    mean = total / n_tokens
    with np.errstate(invalid="ignore"):
        around = squares - mean * total
    return {
        "tokens": torch.tensor(n_tokens),
        "mean": torch.from_numpy(mean + shift),
        "squares": torch.from_numpy(np.maximum(around, 0)),
        "max": torch.from_numpy(largest),
    }
