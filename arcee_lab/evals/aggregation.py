"""A metric as a function of sums over documents: what lm-eval aggregates and a bootstrap redraws."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

Moments = Callable[[Sequence[Any]], np.ndarray]
Value = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Aggregation:
    """A metric `value(sum of moments over documents)`; lm-eval calls it like a function.

    Accuracy has the moments (right, 1) and the value right / n; a macro-F1 has a confusion matrix.
    A bootstrap then redraws documents by one matrix product, whatever the metric.

    Attributes:
        name: As shown.
        moments: What lm-eval collected, one item a document -> `[n, k]` numbers.
        value: Sums `[..., k]` -> metric `[...]`; NaN where it is not defined.

    Example:
        >>> from arcee_lab.evals.aggregation import MEAN
        >>> MEAN([1.0, 0.0, 1.0, 1.0])
        0.75
    """

    name: str
    moments: Moments
    value: Value

    def __call__(self, items: Sequence[Any]) -> float:
        """The metric over documents."""
        if not len(items):
            raise ValueError(f"{self.name} of no documents; expected at least one item.")
        return float(self.value(self.moments(items).sum(axis=0)))


def _singles(items: Sequence[Any]) -> Float[np.ndarray, "n 2"]:
    numbers = np.asarray(items, dtype=np.float64)
    return np.stack([numbers, np.ones_like(numbers)], axis=-1)


def _pairs(items: Sequence[Any]) -> Float[np.ndarray, "n 2"]:
    return np.asarray(items, dtype=np.float64).reshape(-1, 2)


def ratio(sums: np.ndarray) -> np.ndarray:
    """First sum over second; NaN where the second is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums[..., 0] / np.where(sums[..., 1] == 0, np.nan, sums[..., 1])


MEAN = Aggregation("mean", _singles, ratio)
