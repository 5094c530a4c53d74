"""What heads do, in numbers per head and token, without ever holding a whole pattern.

statistics   what to ask of a row of the pattern: Entropy, FirstMass, Offset, TopKeys, Distance
rows         a few rows of a pattern, and what they may read
block        the pass: `with al.attention.heads(model, ...) as stats`
result       HeadStatistic: means by head, values by token, frame, figure
"""

from typing import TYPE_CHECKING

from arcee_lab._lazy import lazy_exports

if TYPE_CHECKING:
    from arcee_lab.attention.block import HeadStatistics, heads
    from arcee_lab.attention.result import HeadStatistic
    from arcee_lab.attention.rows import Reading, Rows
    from arcee_lab.attention.statistics import (
        Distance,
        Entropy,
        FirstMass,
        Offset,
        Statistic,
        TopKeys,
    )

__all__ = [
    "Distance",
    "Entropy",
    "FirstMass",
    "HeadStatistic",
    "HeadStatistics",
    "Offset",
    "Reading",
    "Rows",
    "Statistic",
    "TopKeys",
    "heads",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "block": ("HeadStatistics", "heads"),
        "result": ("HeadStatistic",),
        "rows": ("Reading", "Rows"),
        "statistics": ("Distance", "Entropy", "FirstMass", "Offset", "Statistic", "TopKeys"),
    },
)
