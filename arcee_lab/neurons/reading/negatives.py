"""Windows in which a neuron never fires, alike in length and domain to those in which it does.

Before the pass a pool of windows is drawn, from every domain and length, and during the pass one
bit says of each neuron and window of the pool whether it stays silent there: 64 bytes per neuron.
Afterwards the negatives of a neuron are looked up: each of its top windows in turn, the best first,
takes from its own domain the silent window of the pool whose length is nearest, until there are
enough or no domain has any left.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from arcee_lab.neurons.reading import hashing

POOL = 512  # windows


def pool(
    lengths: Int[np.ndarray, " window"],
    domains: Int[np.ndarray, " window"],
    *,
    seed: int,
    most: int,
) -> Int[np.ndarray, " drawn"]:
    """Draws the pool.

    Windows of one domain whose lengths have the same power of two below them form a cell. The cells
    take turns, so that a rare domain or length has its windows too; in a cell the order is random.

    Args:
        lengths: Tokens of each window.
        domains: Number of each window's domain.
        seed: Of the order.
        most: How many to draw; all, where there are fewer.

    Returns:
        Their numbers, in the order drawn.
    """
    windows = np.arange(len(lengths), dtype=np.int64)
    neuron = hashing.mixed(np.array([(seed ^ 0x51ED270B) & 0xFFFFFFFF], dtype=np.int64))
    order = hashing.orders(neuron, hashing.window_keys(windows))
    cells = domains.astype(np.int64) * 64 + np.log2(np.maximum(lengths, 1)).astype(np.int64)
    by_cell = np.lexsort((order, cells))
    starts = np.flatnonzero(np.diff(cells[by_cell], prepend=-1))
    turn = np.arange(len(windows)) - np.repeat(starts, np.diff(starts, append=len(windows)))
    return by_cell[np.lexsort((order[by_cell], turn))][:most]


def matched(
    like: Sequence[int],
    silent: Int[np.ndarray, " silent"],
    *,
    lengths: Int[np.ndarray, " window"],
    domains: Int[np.ndarray, " window"],
    most: int,
) -> tuple[int, ...]:
    """The negatives of a neuron.

    Args:
        like: Its top windows, best first.
        silent: The windows of the pool in which it never fires, in the order drawn.
        lengths: Tokens of each window.
        domains: Number of each window's domain.
        most: How many to take.

    Returns:
        Numbers of windows, in the order taken; fewer than `most` where no more are silent.
    """
    left = {
        domain: [w for w in silent.tolist() if domains[w] == domain]
        for domain in dict.fromkeys(int(domains[w]) for w in like)
    }
    taken: list[int] = []
    while len(taken) < most and any(left.values()):
        for window in like:
            there = left[int(domains[window])]
            if there and len(taken) < most:
                nearest = min(there, key=lambda w: abs(int(lengths[w]) - int(lengths[window])))
                there.remove(nearest)
                taken.append(nearest)
    return tuple(taken)
