"""A number per neuron and window that looks random and is the same on every machine.

Windows are drawn by it: the smallest numbers win, so what several batches, files or ranks have
drawn adds up to what one pass over all would have drawn, in any order.

Of one neuron, no two windows have the same number: each step of the mixing can be undone.

Sources: Cohen and Kaplan, "Summarizing Data Using Bottom-k Sketches", PODC 2007; the constants of
the mixing are those of Wellons, "hash-prospector" (2018), public domain.
"""

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Whole = TypeVar("Whole", np.ndarray, Tensor)
MOST = 2**32  # numbers there are
_LOW = 0xFFFFFFFF


def mixed(x: Whole) -> Whole:
    """32 bits mixed, one to one.

    Args:
        x: int64, from 0 to 2^32 - 1.
    """
    # int64, because torch has no uint32; products wrap around, and the low half is what is kept.
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _LOW
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _LOW
    return x ^ (x >> 16)


def neuron_keys(layer: int, d_mlp: int, seed: int) -> np.ndarray:
    """A key per neuron of a layer, int64; the choice of layers does not change it."""
    units = np.arange(layer * d_mlp, (layer + 1) * d_mlp, dtype=np.int64) & _LOW
    return mixed(units ^ int(mixed(np.array([(seed ^ 0x9E3779B9) & _LOW]))[0]))


def window_keys(windows: Whole) -> Whole:
    """A key per window, int64."""
    return mixed((windows + 0x632BE5AB) & _LOW)


def orders(neurons: Whole, windows: Whole) -> Whole:
    """The number of each neuron in each window; shapes broadcast.

    Args:
        neurons: Of `neuron_keys`.
        windows: Of `window_keys`.
    """
    return mixed(neurons ^ windows)


def on(device: torch.device, keys: np.ndarray) -> Tensor:
    """Keys on a device, without waiting for it."""
    return torch.from_numpy(keys).to(device, non_blocking=True)
