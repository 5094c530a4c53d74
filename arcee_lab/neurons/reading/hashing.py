"""A number per neuron and window that looks random and is the same on every machine.

Windows are drawn by it: the smallest numbers win, so what several batches, files or ranks have
drawn adds up to what one pass over all would have drawn, in any order.

Source: Cohen and Kaplan, "Summarizing Data Using Bottom-k Sketches", PODC 2007. The mixing is
xorshift and multiplication as in Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
Generators", OOPSLA 2014, in 32 bits.
"""

from typing import TypeVar

import numpy as np
from torch import Tensor

Whole = TypeVar("Whole", np.ndarray, Tensor)
BITS = 26  # of a number: the high ones of 32
_LOW = 0xFFFFFFFF


def mixed(x: Whole) -> Whole:
    """32 bits mixed, one to one.

    Args:
        x: int64, from 0 to 2^32 - 1; of an array also uint32, which is faster.
    """
    # int64, because torch has no uint32; products wrap around, and the low half is what is kept.
    if isinstance(x, np.ndarray) and x.dtype == np.uint32:
        x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
        x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
        return x ^ (x >> np.uint32(16))
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _LOW
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _LOW
    return x ^ (x >> 16)


def neuron_keys(layer: int, d_mlp: int, seed: int) -> np.ndarray:
    """A key per neuron of a layer, int64; which other layers are read does not change it."""
    units = np.arange(layer * d_mlp, (layer + 1) * d_mlp, dtype=np.int64) & _LOW
    return mixed(units ^ int(mixed(np.array([(seed ^ 0x9E3779B9) & _LOW]))[0]))


def window_keys(windows: Whole) -> Whole:
    """A key per window; uint32 of uint32, else int64."""
    if isinstance(windows, np.ndarray) and windows.dtype == np.uint32:
        return mixed(windows + np.uint32(0x632BE5AB))
    return mixed((windows + 0x632BE5AB) & _LOW)


def orders(neurons: Whole, windows: Whole) -> Whole:
    """The number of each neuron in each window, below 2^26; shapes broadcast.

    Args:
        neurons: Of `neuron_keys`.
        windows: Of `window_keys`.
    """
    order = mixed(neurons ^ windows)
    if isinstance(order, np.ndarray):
        return order >> order.dtype.type(32 - BITS)
    return order >> (32 - BITS)
