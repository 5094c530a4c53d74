"""How well scores separate two classes: the AUROC, and intervals by resampling documents."""

import numpy as np
from jaxtyping import Bool, Float, Int

from arcee_lab import bootstrap

_CELLS = 2**22  # of a matrix of weights at once


def auroc(scores: Float[np.ndarray, " n"], truth: Bool[np.ndarray, " n"]) -> float:
    """How often a token of the class scores above one that is not of it; ties count half.

    The area under the curve of true over false positives (Hanley and McNeil, Radiology 143, 1982).
    0.5 is chance, and does not depend on how common the class is.

    Args:
        scores: Of each token.
        truth: Whether it is of the class.
    """
    return float(_weighted(scores, truth, np.ones((1, len(scores))))[0])


def resampled(
    scores: Float[np.ndarray, " n"],
    truth: Bool[np.ndarray, " n"],
    documents: Int[np.ndarray, " n"],
    *,
    draws: int = bootstrap.DRAWS,
    seed: int = 0,
) -> Float[np.ndarray, " draw"]:
    """The AUROC of as many documents, drawn with replacement, for every draw.

    One seed draws the same documents for all scores of the same tokens, so the difference of two
    results is a paired one. NaN where a draw has only one class.

    Args:
        scores: Of each token.
        truth: Whether it is of the class.
        documents: Number of each token's document.
        draws: How many draws.
        seed: Random seed.
    """
    known, place = np.unique(documents, return_inverse=True)
    step = max(1, _CELLS // max(1, len(scores)))
    found = []
    for weights in bootstrap.weights(len(known), draws=draws, seed=seed):
        for start in range(0, len(weights), step):
            found.append(_weighted(scores, truth, weights[start : start + step, place]))
    return np.concatenate(found)


def interval(draws: Float[np.ndarray, " draw"]) -> tuple[float, float]:
    """The middle 95 % of the draws that are defined; NaN if none is."""
    known = draws[~np.isnan(draws)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = bootstrap.interval(known)
    return float(low), float(high)


def _weighted(
    scores: Float[np.ndarray, " n"],
    truth: Bool[np.ndarray, " n"],
    weights: Float[np.ndarray, "draw n"],
) -> Float[np.ndarray, " draw"]:
    order = np.argsort(scores, kind="stable")
    ranked, said = scores[order], truth[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    weights = weights[:, order]
    right = np.add.reduceat(weights * said, starts, axis=1)
    wrong = np.add.reduceat(weights * ~said, starts, axis=1)
    below = np.cumsum(wrong, axis=1) - wrong / 2  # ties count half
    pairs = right.sum(axis=1) * wrong.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs > 0, (right * below).sum(axis=1) / pairs, np.nan)
