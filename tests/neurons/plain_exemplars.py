"""Exemplars by plain Python: every window looked at, every list sorted out of all windows."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LOW = 0xFFFFFFFF


def mixed(x: int) -> int:
    """32 bits mixed, in Python's integers."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & LOW
    x = ((x ^ (x >> 15)) * 0x846CA68B) & LOW
    return x ^ (x >> 16)


def number(neuron: int, window: int, seed: int) -> int:
    """What windows are drawn by: 26 bits of neuron, window and seed."""
    key = mixed((neuron & LOW) ^ mixed((seed ^ 0x9E3779B9) & LOW))
    return mixed(key ^ mixed((window + 0x632BE5AB) & LOW)) >> 6


def octave(value: float) -> int:
    """The bin of a value above 0."""
    return 30 if math.isinf(value) else min(max(math.frexp(value)[1] - 1 + 12 + 1, 0), 30)


@dataclass
class Plain:
    """One neuron.

    Attributes:
        top: (value, window, position), the best first.
        drawn: Per octave, the same by the number of the draw.
        histogram: Windows by octave.
        fired: Tokens.
        silent: Windows in which it never fires.
    """

    top: list[tuple[float, int, int]]
    drawn: dict[int, list[tuple[float, int, int]]]
    histogram: list[int]
    fired: int
    silent: set[int]


def plain(
    windows: dict[int, tuple[Tensor, Tensor]],
    unit: int,
    neuron: int,
    *,
    top: int,
    per: int,
    seed: int,
) -> Plain:
    """What the pass has to find of a neuron.

    Args:
        windows: Number -> activations `[token, unit]`, and which tokens count.
        unit: The neuron, in these activations.
        neuron: Its number in the whole model.
        top: How many windows with the largest maxima.
        per: How many drawn per octave.
        seed: Of the draw.
    """
    found, fired, silent = [], 0, set()
    for window, (x, counts) in windows.items():
        values = [float(v) if c else 0.0 for v, c in zip(x[:, unit], counts, strict=True)]
        fired += sum(v > 0 for v in values)
        best = max(values, default=0.0)
        if best > 0:
            found.append((best, window, values.index(best)))
        else:
            silent.add(window)
    histogram, octaves = [0] * 31, {}
    for one in found:
        histogram[octave(one[0])] += 1
        octaves.setdefault(octave(one[0]), []).append(one)
    drawn = {
        o: sorted(some, key=lambda one: (number(neuron, one[1], seed), one[1]))[:per]
        for o, some in octaves.items()
    }
    best_first = sorted(found, key=lambda one: (-one[0], one[1]))
    return Plain(best_first[:top], drawn, histogram, fired, silent)


def padded(rows: list[np.ndarray], side: str, pad: int = 0) -> tuple[Tensor, Tensor]:
    """Ids and mask of some windows as one batch."""
    length = max(map(len, rows))
    ids, mask = np.full((len(rows), length), pad), np.zeros((len(rows), length), int)
    for row, window in enumerate(rows):
        here = slice(length - len(window), None) if side == "left" else slice(len(window))
        ids[row, here], mask[row, here] = window, 1
    return torch.from_numpy(ids), torch.from_numpy(mask)
