"""Ways to sum over documents that several metrics share."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from arcee_lab.evals.metrics.aggregation import Aggregation

Numbers = np.ndarray | np.number  # NumPy makes a scalar of an array without axes


def divided(over: Numbers, under: Numbers, *, empty: float = np.nan) -> np.ndarray:
    """`over / under`, and `empty` where nothing is counted."""
    over, under = np.broadcast_arrays(np.asarray(over, float), np.asarray(under, float))
    return np.divide(over, under, out=np.full(over.shape, float(empty)), where=under != 0)


def _pairs(items: Sequence[Any]) -> np.ndarray:
    return np.asarray(items, dtype=float).reshape(len(items), 2)


def _with_ones(items: Sequence[Any]) -> np.ndarray:
    values = np.asarray(items, dtype=float).reshape(len(items))
    return np.stack([values, np.ones(len(items))], axis=-1)


def _share(sums: np.ndarray) -> np.ndarray:
    return divided(sums[..., 0], sums[..., 1])


def mean(name: str) -> Aggregation:
    """The mean over documents; an item is one number."""
    return Aggregation(name, _with_ones, _share)


def ratio(name: str) -> Aggregation:
    """A sum over a sum, as right words over words; an item is (over, under)."""
    return Aggregation(name, _pairs, _share)


def exp_ratio(name: str) -> Aggregation:
    """A perplexity: e to the nats over what was counted; an item is (nats, count)."""
    return Aggregation(name, _pairs, lambda sums: np.exp(_share(sums)))
