"""Intervals by resampling documents: tokens of one document are not independent, documents are.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), percentile intervals.
"""

import numpy as np
from jaxtyping import Float, Int

DRAWS = 1000
_CELLS = 2**22  # draws times groups that exist together


def resamples(n: int, seed: int) -> Float[np.ndarray, "group draw"]:
    """How often each of 1,000 draws, with replacement, takes each of n documents."""
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=DRAWS)
    return draws.T.astype(np.float64)


def ratio_interval(
    sums: Float[np.ndarray, "group column"], counts: Int[np.ndarray, " group"], seed: int = 0
) -> Float[np.ndarray, "2 column"]:
    """The 95 % intervals of Σ sums / Σ counts over groups; NaN of fewer than two groups.

    Args:
        sums: Of each group.
        counts: Of each group, above 0.
        seed: Of the draws, which are those of `resamples`, made a few at a time.
    """
    n, draw = len(counts), np.random.default_rng(seed)
    if n < 2:
        return np.full((2, sums.shape[1]), np.nan)
    found, together = [], max(1, _CELLS // n)
    for at in range(0, DRAWS, together):
        size = min(together, DRAWS - at)
        taken = draw.multinomial(n, np.full(n, 1 / n), size=size).astype(np.float64)
        found.append(taken @ sums / (taken @ counts)[:, None])
    return interval(np.concatenate(found).T)


def interval(draws: Float[np.ndarray, "*any draw"]) -> Float[np.ndarray, "2 *any"]:
    """The ends of the middle 95 % of the draws."""
    return np.quantile(draws, [0.025, 0.975], axis=-1)
