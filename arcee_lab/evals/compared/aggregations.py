"""Aggregations by name, so that a saved run can be redrawn without running code from its files."""

from collections.abc import Callable
from typing import Any

import lm_eval.api.metrics  # noqa: F401  registers lm-eval's aggregations
from lm_eval.api.registry import AGGREGATION_REGISTRY

from arcee_lab.evals import metrics
from arcee_lab.evals.metrics.aggregation import Aggregation

Aggregate = Callable[[Any], float]
_OURS = {
    name: value
    for name in metrics.__all__
    if isinstance(value := getattr(metrics, name), Aggregation)
}


def aggregation_name(aggregation: Aggregate) -> str | None:
    """The name under which `named_aggregation` finds it; None for a function of a task's own."""
    for name, known in _OURS.items():
        if aggregation == known:  # not `is`: lm-eval copies a task's settings
            return f"arcee_lab.{name}"
    for name in AGGREGATION_REGISTRY:
        if AGGREGATION_REGISTRY.get(name) is aggregation:
            return name
    return None


def named_aggregation(name: str) -> Aggregate | None:
    """The aggregation of a name in a results file; None if there is none."""
    if name.startswith("arcee_lab."):
        return _OURS.get(name.removeprefix("arcee_lab."))
    return AGGREGATION_REGISTRY.get(name) if name in AGGREGATION_REGISTRY else None
