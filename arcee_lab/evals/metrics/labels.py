"""Scores of one label per document: macro-F1, Matthews' correlation, calibration error.

Accuracy, negative log-likelihood and Brier score are means over documents.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from arcee_lab.evals.metrics.aggregation import Aggregation
from arcee_lab.evals.metrics.kinds import divided, mean

BINS = 15  # of confidence, equally wide, each with its upper edge

acc = mean("acc")
nll = mean("nll")
brier = mean("brier")


def label_items(gold: int, log_probs: Sequence[float]) -> dict[str, Any]:
    """One document's item for each score of this page.

    The log-probabilities are taken as they are: over all labels of a head they sum to one.

    Args:
        gold: Index of the right label.
        log_probs: Natural logarithms, one per label.

    Returns:
        `acc`, `nll` (nats) and `brier` (the squared distance to the right answer, summed over the
        labels: 0 to 2) as numbers; `macro_f1` and `mcc` as (right label, label given); `ece` as
        (confidence, whether right).
    """
    logs = np.asarray(log_probs, dtype=float)
    probs = np.exp(logs)
    given = int(logs.argmax())
    right = np.arange(len(logs)) == gold
    return {
        "acc": float(given == gold),
        "macro_f1": (int(gold), given),
        "mcc": (int(gold), given),
        "nll": float(-logs[gold]),
        "brier": float(((probs - right) ** 2).sum()),
        "ece": (float(probs[given]), float(given == gold)),
    }


def _confusions(items: Sequence[tuple[int, int]]) -> np.ndarray:
    """`[document, label * label]`: a one where the row is the right label, the column the given."""
    pairs = np.asarray(items, dtype=int).reshape(len(items), 2)
    size = int(pairs.max()) + 1
    cells = np.zeros((len(pairs), size * size))
    cells[np.arange(len(pairs)), pairs[:, 0] * size + pairs[:, 1]] = 1
    return cells


def _square(sums: np.ndarray) -> np.ndarray:
    size = round(sums.shape[-1] ** 0.5)
    return sums.reshape(*sums.shape[:-1], size, size)


def _macro_f1(sums: np.ndarray) -> np.ndarray:
    """Mean of F1 over the labels that stand anywhere, right or given, as scikit-learn has it."""
    matrix = _square(sums)
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    counted = matrix.sum(-1) + matrix.sum(-2)
    f1 = divided(2 * hits, counted, empty=0.0)
    return divided(f1.sum(-1), (counted > 0).sum(-1))


def _mcc(sums: np.ndarray) -> np.ndarray:
    """Gorodkin's form for any number of labels; 0 where one label is all there is."""
    matrix = _square(sums)
    gold, given = matrix.sum(-1), matrix.sum(-2)
    n = matrix.sum((-2, -1))
    covariance = np.trace(matrix, axis1=-2, axis2=-1) * n - (gold * given).sum(-1)
    spread = (n**2 - (gold**2).sum(-1)) * (n**2 - (given**2).sum(-1))
    return divided(covariance, np.sqrt(np.maximum(spread, 0)), empty=0.0)


def _binned(items: Sequence[tuple[float, float]]) -> np.ndarray:
    """`[document, 2 * bin]`: confidence less rightness in the document's bin; a count there."""
    confidence, right = np.asarray(items, dtype=float).reshape(len(items), 2).T
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    cells = np.zeros((len(bins), 2 * BINS))
    cells[np.arange(len(bins)), bins] = confidence - right
    cells[np.arange(len(bins)), BINS + bins] = 1
    return cells


def _ece(sums: np.ndarray) -> np.ndarray:
    """Mean distance of confidence and accuracy by bin, weighted by the documents of the bin."""
    return divided(np.abs(sums[..., :BINS]).sum(-1), sums[..., BINS:].sum(-1))


macro_f1 = Aggregation("macro_f1", _confusions, _macro_f1)
mcc = Aggregation("mcc", _confusions, _mcc)
ece = Aggregation("ece", _binned, _ece)
