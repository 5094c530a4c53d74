"""95 % intervals by resampling documents, which are independent; tokens of one document are not.

Percentile bootstrap: Efron, "Bootstrap Methods: Another Look at the Jackknife", Annals of
Statistics 7 (1979). It describes documents like these, not other seeds or prompts. Where all
documents score the same the interval has no width, which is not certainty: look at n.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

SHARE = 0.95
DRAWS = 1000
_CELLS = 2**23  # of a matrix of weights at once


def weights(
    n: int, *, draws: int = DRAWS, seed: int = 0
) -> Iterator[Float[np.ndarray, "draw document"]]:
    """How often each draw, with replacement, takes each of n documents, a few draws at a time.

    Args:
        n: Documents.
        draws: How many draws there are in all.
        seed: Random seed; with one seed, metrics of the same documents vary together.
    """
    source = np.random.default_rng(seed)
    step = max(1, _CELLS // n)
    for start in range(0, draws, step):
        rows = min(step, draws - start)
        picks = source.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        yield np.bincount(picks.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def resamples(n: int, *, draws: int = DRAWS, seed: int = 0) -> Float[np.ndarray, "document draw"]:
    """All of `weights` at once, for a few documents and many statistics of them."""
    return np.concatenate(list(weights(n, draws=draws, seed=seed))).T


def resampled_sums(
    moments: Float[np.ndarray, "document moment"], *, draws: int = DRAWS, seed: int = 0
) -> Float[np.ndarray, "draw moment"]:
    """Sums over as many documents, drawn with replacement, for every draw.

    Args:
        moments: What is summed, per document.
        draws: How many draws.
        seed: Random seed.
    """
    return np.concatenate([w @ moments for w in weights(len(moments), draws=draws, seed=seed)])


def ratio_interval(
    sums: Float[np.ndarray, "group column"], counts: Int[np.ndarray, " group"], *, seed: int = 0
) -> Float[np.ndarray, "2 column"]:
    """The 95 % intervals of Σ sums / Σ counts over groups; NaN of fewer than two groups.

    Args:
        sums: Of each group.
        counts: Of each group, above 0.
        seed: Random seed.
    """
    if len(counts) < 2:
        return np.full((2, sums.shape[1]), np.nan)
    moments = np.concatenate([sums, counts[:, None]], axis=1).astype(np.float64)
    drawn = resampled_sums(moments, seed=seed)
    return interval((drawn[:, :-1] / drawn[:, -1:]).T)


def interval(values: Float[np.ndarray, "*any draw"]) -> Float[np.ndarray, "2 *any"]:
    """The ends of the middle 95 % of the draws; NaN where a draw is not defined."""
    edge = (1 - SHARE) / 2
    return np.quantile(values, [edge, 1 - edge], axis=-1)
