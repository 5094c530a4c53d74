"""One byte per value and one scale per token, with a bound on the error."""

import torch
from jaxtyping import Float, Float32, Int8
from torch import Tensor

from arcee_lab.errors import ModelError

LEVELS = 127


def quantise(
    x: Float[Tensor, "token width"],
) -> tuple[Int8[Tensor, "token width"], Float32[Tensor, " token"]]:
    """Rounds each value to a whole number of its token's scale, max |x| / 127.

    The result of `dequantise` differs by at most half a scale and one rounding of float32.

    Returns:
        The whole numbers, and the scales.

    Raises:
        ModelError: A value is NaN or infinite.
    """
    x = x.float()
    if not torch.isfinite(x).all():
        raise ModelError("values that are NaN or infinite have no int8; store them as 'dense'.")
    scale = x.abs().amax(dim=1) / LEVELS if x.shape[1] else x.new_zeros(len(x))
    # Where the scale is too small for float32, all of the row rounds to 0.
    steps = torch.where(scale > 0, scale, 1.0)[:, None]
    return (x / steps).round().clamp(-LEVELS, LEVELS).to(torch.int8), scale


def dequantise(
    values: Int8[Tensor, "token width"], scales: Float32[Tensor, " token"]
) -> Float32[Tensor, "token width"]:
    """The values that `quantise` rounded to."""
    return values.float() * scales[:, None]
