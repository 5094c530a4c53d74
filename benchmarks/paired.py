"""Paired CPU-time ratios: how much longer one call takes than another, on a noisy machine.

Wall time measures the neighbours, so the clock is the CPU time of this process, with one thread.
The two calls of a pair run one right after the other in random order; the median over many pairs
drops the pairs that something disturbed.
"""

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Paired:
    """What a contestant costs compared with the reference.

    Attributes:
        milliseconds: Median CPU time of one call.
        ratios: Its time over the reference's, one per pair.
    """

    milliseconds: float
    ratios: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle ratio."""
        return statistics.median(self.ratios)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The ratios that bound the middle half."""
        low, _, high = statistics.quantiles(self.ratios, n=4)
        return low, high


def measure(
    reference: Callable[[], object],
    contestants: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    calls: int,
    warm: int = 3,
    seed: int = 0,
) -> dict[str, Paired]:
    """Times each contestant against the reference.

    Args:
        reference: What the others are divided by.
        contestants: The calls to time, by name.
        rounds: Pairs for each contestant.
        calls: Calls in one timing; more for short calls.
        warm: Calls of each before the first timing.
        seed: Of the order within and between the pairs.

    Returns:
        A result for each contestant.
    """
    rng = random.Random(seed)
    times: dict[str, list[float]] = {name: [] for name in contestants}
    ratios: dict[str, list[float]] = {name: [] for name in contestants}
    for call in (reference, *contestants.values()):
        for _ in range(warm):
            call()
    gc.collect()
    gc.freeze()  # what the libraries hold need not be walked before each timing
    gc.disable()
    try:
        for _ in range(rounds):
            for name in rng.sample(list(contestants), len(contestants)):
                pair = [reference, contestants[name]]
                turned = rng.random() < 0.5
                spent = [_cpu_seconds(call, calls) for call in (pair[::-1] if turned else pair)]
                base, ours = spent[::-1] if turned else spent
                times[name].append(ours / calls)
                ratios[name].append(ours / base)
    finally:
        gc.enable()
        gc.unfreeze()
    return {
        name: Paired(1000 * statistics.median(times[name]), tuple(ratios[name]))
        for name in contestants
    }


def _cpu_seconds(call: Callable[[], object], calls: int) -> float:
    gc.collect()
    start = time.process_time()
    for _ in range(calls):
        call()
    return time.process_time() - start
