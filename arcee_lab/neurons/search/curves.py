"""Scores of a unit against a label: F1 at a threshold, AUPRC, AUROC, and intervals over documents.

AUPRC is the average precision, the sum over thresholds of precision times what recall gains;
equal values are one threshold. AUROC counts equal values half.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int

from arcee_lab.bootstrap import DRAWS, interval, weights

Values = Float[np.ndarray, " token"]
Truth = Bool[np.ndarray, " token"]
_DRAWS_AT_ONCE = 2**22  # weights of a piece of the draws

RANKINGS = ("f1", "auprc")
# AUROC is shown and never ranks: it hardly falls where 30 % of a rare label's tokens are missing,
# which tests/neurons/test_search_curves.py measures; Oikarinen et al., "Evaluating Neuron
# Explanations", arXiv:2506.05774, name the tests and the scores that pass them.


def best_threshold(values: Values, truth: Truth) -> tuple[float, float]:
    """The threshold with the highest F1, and that F1; the unit says yes above it.

    It is half way between two values that occur; of equal scores the highest one is taken.
    """
    order = np.argsort(-values, kind="stable")
    ordered, hits = values[order], np.cumsum(truth[order])
    ends = np.flatnonzero(np.diff(ordered, append=-np.inf))  # the last of equal values
    scores = 2 * hits[ends] / (ends + 1 + hits[-1])
    best = int(np.argmax(scores))
    low = ordered[ends[best] + 1] if best + 1 < len(ends) else ordered[-1] - 1.0
    return float((ordered[ends[best]] + low) / 2), float(scores[best])


def f1(values: Values, truth: Truth, threshold: float) -> float:
    """F1 of being above a threshold; 0 where neither holds anywhere."""
    above = values > threshold
    both = above.sum() + truth.sum()
    return float(2 * (above & truth).sum() / both) if both else 0.0


def auprc(values: Values, truth: Truth) -> float:
    """Average precision; NaN where the label never holds."""
    return float(_auprc(_Sorted(values, truth), np.ones((1, len(values))))[0])


def auroc(values: Values, truth: Truth) -> float:
    """How often a labelled token is above one that is not; NaN where there is only one class."""
    positives, n = int(truth.sum()), len(truth)
    if positives in (0, n):
        return float("nan")
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    return float((ranks[inverse][truth].sum() - positives * (positives + 1) / 2)
                 / (positives * (n - positives)))  # fmt: skip


def f1_draws(
    values: Values, truth: Truth, threshold: float, groups: Int[np.ndarray, " token"], *, seed: int
) -> Float[np.ndarray, " draw"]:
    """F1 of every draw of documents; `groups` numbers them from 0."""
    n = int(groups.max()) + 1
    above = values > threshold
    counts = [np.bincount(groups, both, n) for both in (above & truth, above, truth)]
    moments = np.stack(counts, axis=1)
    sums = np.concatenate([w @ moments for w in weights(n, seed=seed)])
    return 2 * sums[:, 0] / np.maximum(sums[:, 1] + sums[:, 2], 1)


def auprc_draws(
    values: Values, truth: Truth, groups: Int[np.ndarray, " token"], *, seed: int
) -> Float[np.ndarray, " draw"]:
    """AUPRC of every draw of documents, in the same draws as `f1_draws`."""
    ordered = _Sorted(values, truth)
    n = int(groups.max()) + 1
    return np.concatenate(
        [_auprc(ordered, w[:, groups]) for w in _in_pieces(n, len(values), seed=seed)]
    )


def difference(
    mine: Float[np.ndarray, " draw"], theirs: Float[np.ndarray, " draw"]
) -> tuple[float, float]:
    """The 95 % interval of a paired difference; draws without the label in them are left out."""
    found = mine - theirs
    found = found[np.isfinite(found)]
    if len(found) < DRAWS // 2:
        return float("nan"), float("nan")
    low, high = interval(found)
    return float(low), float(high)


def _in_pieces(n: int, tokens: int, *, seed: int) -> Iterator[np.ndarray]:
    step = max(1, _DRAWS_AT_ONCE // tokens)
    for some in weights(n, seed=seed):
        for start in range(0, len(some), step):
            yield some[start : start + step]


class _Sorted:
    """Values from high to low, and where runs of equal ones end."""

    def __init__(self, values: Values, truth: Truth):
        self.order = np.argsort(-values, kind="stable")
        self.truth = truth[self.order]
        self.ends = np.flatnonzero(np.diff(values[self.order], append=-np.inf))


def _auprc(ordered: _Sorted, each: Float[np.ndarray, "draw token"]) -> Float[np.ndarray, " draw"]:
    each = each[:, ordered.order]
    seen = np.cumsum(each, axis=1)[:, ordered.ends]
    hits = np.cumsum(each * ordered.truth, axis=1)[:, ordered.ends]
    gains = np.diff(hits, axis=1, prepend=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (gains * hits / np.maximum(seen, 1)).sum(axis=1) / hits[:, -1]
