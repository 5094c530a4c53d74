"""A finding in one sentence, with its value, its interval and its N."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from arcee_lab.errors import SettingError
from arcee_lab.results import counted

_DRAWS = 2000  # of the bootstrap over values


def caption(
    finding: str,
    *,
    n: int | None = None,
    of: str = "token",
    interval: Sequence[float] | None = None,
    values: Any = None,
    percent: bool = False,
) -> str:
    """The finding with what it rests on; see `Lesson.caption`."""
    if values is not None:
        rows = np.asarray(values, dtype=float)
        rows = rows[np.isfinite(rows)]
        if not len(rows):
            raise SettingError(f"There is no finite value for {finding!r}; give at least one.")
        n, mean = len(rows), float(rows.mean())
        if len(rows) > 1:
            draws = np.random.default_rng(0).choice(rows, (_DRAWS, len(rows))).mean(1)
            low, high = np.quantile(draws, (0.025, 0.975))
            interval = (float(low), float(high))
        finding = finding.replace("{}", _shown(mean, percent=percent))
    facts = []
    if interval is not None:
        low, high = (_shown(end, percent=percent) for end in interval)
        facts.append(f"95 % interval {low} to {high}")
    if n is not None:
        facts.append(f"N = {counted(n, of)}")
    sentence = finding.rstrip(".")
    return f"{sentence} ({'; '.join(facts)})." if facts else f"{sentence}."


def _shown(value: float, *, percent: bool) -> str:
    if percent:
        return f"{value:.1%}"
    return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
