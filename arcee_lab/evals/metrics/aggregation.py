"""A metric as a function of sums over documents: lm-eval aggregates them, a bootstrap redraws."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from arcee_lab.errors import SettingError


# No dataclass: lm-eval copies a task's settings with `asdict`, which would make a dict of it.
class Aggregation(NamedTuple):
    """A metric `value(sum of moments over documents)`; lm-eval calls it like a function.

    Accuracy has the moments (right, 1) and the value right / n; a macro-F1 has a confusion matrix.
    A bootstrap then redraws documents by one matrix product, whatever the metric. A task file names
    one as `aggregation: !function arcee_lab.evals.metrics.macro_f1`.

    Attributes:
        name: As shown.
        moments: What lm-eval collected, one item a document -> float64 `[document, moment]`. How
            many moments there are may depend on the items.
        value: Sums `[..., moment]` -> metric `[...]`; NaN where it is not defined.

    Example:
        >>> from arcee_lab.evals.metrics import macro_f1
        >>> macro_f1([(0, 0), (1, 1), (1, 0)])  # (right label, label given)
        0.6666666666666666
    """

    name: str
    moments: Callable[[Sequence[Any]], np.ndarray]
    value: Callable[[np.ndarray], np.ndarray]

    def __call__(self, items: Sequence[Any]) -> float:
        """The metric over documents.

        Raises:
            ValueError: There is none.
        """
        if not len(items):
            raise SettingError(f"{self.name} has no document to score; expected one or more.")
        return float(self.value(self.moments(items).sum(axis=0)))

    def __repr__(self) -> str:
        """Where it is defined: lm-eval writes this next to the results."""
        return f"<arcee_lab.evals.metrics: {self.name}>"
