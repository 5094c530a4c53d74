"""How likely a difference is by chance: exact for right-or-wrong metrics, else bootstrapped."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def mcnemar(gained: int, lost: int) -> float:
    """The exact two-sided p-value of McNemar's test.

    Of the documents that only one of two runs answers rightly, each run would get half by chance.
    McNemar, "Note on the sampling error of the difference between correlated proportions",
    Psychometrika 12 (1947).

    Args:
        gained: Documents that only the second run answers rightly.
        lost: Documents that only the first run answers rightly.
    """
    n, fewer = gained + lost, min(gained, lost)
    if 2 * fewer >= n:
        return 1.0
    log_terms = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
        for k in range(fewer + 1)
    ]
    return min(1.0, 2 * math.exp(float(np.logaddexp.reduce(log_terms))))


def bootstrap_p(differences: Float[np.ndarray, " draw"]) -> float:
    """The two-sided p-value of redrawn differences: how often they reach the other side of 0.

    Never below 2 / (draws + 1), since the observed data count as one more draw. Draws where a
    metric is not defined are left out; NaN if that is all of them.
    """
    drawn = differences[np.isfinite(differences)]
    if not len(drawn):
        return math.nan
    below, above = int((drawn <= 0).sum()), int((drawn >= 0).sum())
    return min(1.0, 2 * (1 + min(below, above)) / (1 + len(drawn)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, by Holm's step-down method.

    Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of
    Statistics 6 (1979). A NaN stays NaN and is not counted.

    Args:
        p_values: Of the tests of one family.
    """
    values = np.asarray(p_values, dtype=float)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    corrected = values.copy()
    stepped = values[order] * (len(order) - np.arange(len(order)))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(stepped)) if len(order) else []
    return corrected.tolist()
