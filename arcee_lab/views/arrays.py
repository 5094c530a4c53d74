"""Numbers as views take them: lists, numpy arrays, and tensors of any dtype and on any device."""

from typing import Any

import numpy as np

Numbers = Any  # a sequence of numbers or of such sequences, a numpy array, or a tensor


def floats(values: Numbers) -> np.ndarray:
    """The numbers as float64, also those of types that numpy does not know, such as bfloat16.

    Args:
        values: A sequence, an array or a tensor, nested as deeply as it likes.

    Returns:
        An array of the same shape.
    """
    if hasattr(values, "detach"):  # a tensor; this module loads no torch
        values = values.detach().float().cpu().numpy()
    elif isinstance(values, list | tuple) and any(
        hasattr(value, "detach") or isinstance(value, list | tuple) for value in values
    ):
        values = [floats(value) for value in values]
    return np.asarray(values, dtype=np.float64)
