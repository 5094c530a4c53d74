"""A metric is a sum over documents and what is made of the sum.

Every score of this package has that form: each document gives a vector (a count, a moment, a cell
of a confusion matrix), the vectors are added, and a function of the sum is the score. A bootstrap
over documents is one matrix product then, and a resample costs no more than the score itself.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np


# No dataclass: lm-eval copies a task's settings with `asdict`, which would make a dict of it.
class Metric(NamedTuple):
    """A score of a set of documents.

    A metric is called with the documents' items, as lm-eval calls an aggregation; a task YAML names
    one as `aggregation: !function arcee_lab.evals.metrics.macro_f1`.

    Attributes:
        name: What the score is called in results.
        moments: From the items of all documents (what `process_results` gives for each) to an array
            `[document, moment]` of float64. The number of moments may depend on the items.
        finish: From sums of moments `[..., moment]` to scores `[...]`; NaN where there is nothing
            to score.
        higher_is_better: Whether more is better.

    Example:
        >>> from arcee_lab.evals.metrics import macro_f1
        >>> macro_f1([(0, 0), (1, 1), (1, 0)])  # (right label, label given)
        0.6666666666666666
    """

    name: str
    moments: Callable[[Sequence[Any]], np.ndarray]
    finish: Callable[[np.ndarray], np.ndarray]
    higher_is_better: bool = True

    def __call__(self, items: Sequence[Any]) -> float:
        """The score of these documents.

        Raises:
            ValueError: There is no document.
        """
        if not len(items):
            raise ValueError(f"{self.name} has no document to score; expected one or more.")
        return float(self.finish(self.moments(items).sum(axis=0)))

    def __repr__(self) -> str:
        """Where the metric lives: lm-eval writes this beside the results."""
        return f"<arcee_lab.evals.metrics: {self.name}>"


def divided(over: np.ndarray, under: np.ndarray, *, empty: float = np.nan) -> np.ndarray:
    """`over / under`, and `empty` where nothing is counted."""
    over, under = np.broadcast_arrays(np.asarray(over, float), np.asarray(under, float))
    return np.divide(over, under, out=np.full(over.shape, float(empty)), where=under != 0)


def _pairs(items: Sequence[Any]) -> np.ndarray:
    return np.asarray(items, dtype=float).reshape(len(items), 2)


def _ones_beside(items: Sequence[Any]) -> np.ndarray:
    values = np.asarray(items, dtype=float).reshape(len(items))
    return np.stack([values, np.ones(len(items))], axis=-1)


def _share(sums: np.ndarray) -> np.ndarray:
    return divided(sums[..., 0], sums[..., 1])


def mean(name: str, *, higher_is_better: bool = True) -> Metric:
    """The mean over documents; an item is one number."""
    return Metric(name, _ones_beside, _share, higher_is_better)


def ratio(name: str, *, higher_is_better: bool = True) -> Metric:
    """A sum over a sum, as right words over words; an item is (over, under)."""
    return Metric(name, _pairs, _share, higher_is_better)


def exp_ratio(name: str) -> Metric:
    """A perplexity: e to the nats over what was counted; an item is (nats, count)."""
    return Metric(name, _pairs, lambda sums: np.exp(_share(sums)), higher_is_better=False)
