"""Intervals by resampling documents: tokens of one document are not independent, documents are.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), percentile intervals.
"""

import numpy as np
from jaxtyping import Float

DRAWS = 1000


def resamples(n: int, seed: int) -> Float[np.ndarray, "group draw"]:
    """How often each of 1,000 draws, with replacement, takes each of n documents."""
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=DRAWS)
    return draws.T.astype(np.float64)


def interval(draws: Float[np.ndarray, "*any draw"]) -> Float[np.ndarray, "2 *any"]:
    """The ends of the middle 95 % of the draws."""
    return np.quantile(draws, [0.025, 0.975], axis=-1)
