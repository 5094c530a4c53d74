"""What heads do, in numbers per head and token, without ever holding a whole pattern.

statistics     what to ask of a row of the pattern: Entropy, FirstMass, Offset, TopKeys, Distance
detectors      the same for tokens that a rule marks: DuplicateToken, Induction, Rule
rows           a few rows of a pattern, and what they may read
block          the pass: `with al.attention.heads(model, ...) as stats`
result         HeadStatistic: means by head, values by token, frame, figure
_detect        `detect`: scores of all heads on texts and on random repeated text
detected       Detected: those scores
circuits       `ov`, `qk`, `singular_tokens`: what a head's weights do
factored       Factored: a large matrix as a product of two thin ones
_composition   `composition`: which heads read which
_head_effects  `ablate_heads`, `patch_heads`: what a metric becomes without a head
"""

from typing import TYPE_CHECKING

from arcee_lab._lazy import lazy_exports

if TYPE_CHECKING:
    from arcee_lab.attention._composition import Composition, composition
    from arcee_lab.attention._detect import detect
    from arcee_lab.attention._head_effects import ablate_heads, patch_heads
    from arcee_lab.attention.block import HeadStatistics, heads
    from arcee_lab.attention.circuits import ov, qk, singular_tokens
    from arcee_lab.attention.detected import Detected
    from arcee_lab.attention.detectors import Detector, DuplicateToken, Induction, Rule
    from arcee_lab.attention.factored import Factored
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
    "Composition",
    "Detected",
    "Detector",
    "Distance",
    "DuplicateToken",
    "Entropy",
    "Factored",
    "FirstMass",
    "HeadStatistic",
    "HeadStatistics",
    "Induction",
    "Offset",
    "Reading",
    "Rows",
    "Rule",
    "Statistic",
    "TopKeys",
    "ablate_heads",
    "composition",
    "detect",
    "heads",
    "ov",
    "patch_heads",
    "qk",
    "singular_tokens",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "_composition": ("Composition", "composition"),
        "_detect": ("detect",),
        "_head_effects": ("ablate_heads", "patch_heads"),
        "block": ("HeadStatistics", "heads"),
        "circuits": ("ov", "qk", "singular_tokens"),
        "detected": ("Detected",),
        "detectors": ("Detector", "DuplicateToken", "Induction", "Rule"),
        "factored": ("Factored",),
        "result": ("HeadStatistic",),
        "rows": ("Reading", "Rows"),
        "statistics": ("Distance", "Entropy", "FirstMass", "Offset", "Statistic", "TopKeys"),
    },
)
