"""Any metric over documents drawn with replacement: one matrix product, not a loop."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from arcee_lab.bootstrap import DRAWS, resampled_sums
from arcee_lab.evals.metrics.aggregation import Aggregation
from arcee_lab.evals.metrics.kinds import mean, ratio
from arcee_lab.evals.metrics.labels import mcc

_SLOW_DRAWS = 200  # where an aggregation is no function of sums


def _minus_exp(sums: np.ndarray) -> np.ndarray:
    return np.exp(-_MEAN.value(sums))


def _binary_f1(sums: np.ndarray) -> np.ndarray:
    hits, others = sums[..., 0], sums[..., 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return 2 * hits / (2 * hits + others)


def _hits(items: Sequence[tuple[int, int]]) -> Float[np.ndarray, "document 2"]:
    gold, given = np.asarray(items, dtype=float).reshape(len(items), 2).T
    return np.stack([gold * given, gold * (1 - given) + given * (1 - gold)], axis=-1)


_MEAN = mean("mean")
_RATIO = ratio("ratio")
# lm-eval's aggregations by name, as functions of sums.
_KNOWN = {
    "mean": _MEAN,
    "perplexity": Aggregation("perplexity", _MEAN.moments, _minus_exp),
    "weighted_perplexity": Aggregation(
        "weighted_perplexity", _RATIO.moments, lambda sums: np.exp(-_RATIO.value(sums))
    ),
    "bits_per_byte": Aggregation(
        "bits_per_byte", _RATIO.moments, lambda sums: -_RATIO.value(sums) / math.log(2)
    ),
    "f1_score": Aggregation("f1", _hits, _binary_f1),
    "matthews_corrcoef": mcc,
}


def redrawn(
    aggregation: Callable[[Sequence[Any]], float],
    items: Sequence[Any],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Float[np.ndarray, " draw"]:
    """A metric over many bootstrap samples of the documents.

    Args:
        aggregation: An `Aggregation`, or any function that lm-eval aggregates with. One that is no
            function of sums is called for each draw, at most 200 times.
        items: What it takes, one per document.
        draws: How often.
        seed: Of the draw; equal for all metrics of a task, so that they vary together.

    Example:
        >>> from arcee_lab.bootstrap import interval
        >>> from arcee_lab.evals.metrics import acc
        >>> values = redrawn(acc, [1.0] * 80 + [0.0] * 20)
        >>> [round(float(edge), 2) for edge in interval(values)]
        [0.72, 0.88]
    """
    known = aggregation
    if not isinstance(aggregation, Aggregation):
        known = _KNOWN.get(getattr(aggregation, "__name__", ""))
    if not isinstance(known, Aggregation):
        n = len(items)
        picks = np.random.default_rng(seed).integers(n, size=(min(draws, _SLOW_DRAWS), n))
        return np.array([float(aggregation([items[i] for i in pick])) for pick in picks])
    sums = resampled_sums(known.moments(items), draws=draws, seed=seed)
    return np.asarray(known.value(sums), dtype=float)
