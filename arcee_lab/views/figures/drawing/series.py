"""How the lines of one figure look: six get a colour and a mark each, of more a few stand out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from arcee_lab.views.scale import CATEGORIES

MOST = len(CATEGORIES)  # lines that have a colour each
NAMED = 5  # that stand out of more
_MARKS = "osD^vP"
_FEW_POINTS = 12  # at which points have marks


@dataclass(frozen=True)
class Look:
    """How one line is drawn.

    Attributes:
        colour: As `#rrggbb`.
        mark: Its mark at each point.
        named: Whether it has a colour and a name of its own; the others are thin and alike.
    """

    colour: str
    mark: str
    named: bool = True

    def options(self, points: int, *, dashed: bool = False) -> dict[str, Any]:
        """For matplotlib's `plot`.

        Args:
            points: How many the line has.
            dashed: For a baseline.
        """
        plain = dashed or not self.named
        many = max(1, -(-points // _FEW_POINTS))
        return {
            "color": self.colour,
            "linestyle": "--" if dashed else "-",
            "linewidth": (1.0 if dashed else 1.6) if self.named else 0.7,
            "alpha": 1.0 if self.named else 0.5,
            "marker": None if plain else self.mark,
            "markersize": 3.8,
            "markevery": many,
            "zorder": 2.5 if self.named else 1.5,
            "rasterized": not self.named,  # 31 thin lines would be most of the bytes
        }


def looks(count: int, soft: str) -> list[Look]:
    """The looks of so many lines, in order.

    Up to six have a colour and a mark each. Of more, such as 36 layers, the first, the last and
    three between them have; the others are thin and in the colour of the axes.

    Args:
        count: How many lines there are.
        soft: The colour of the axes.
    """
    if count <= MOST:
        return [Look(CATEGORIES[n], _MARKS[n]) for n in range(count)]
    places = {int(place): n for n, place in enumerate(spread(count))}
    return [
        Look(CATEGORIES[places[n]], _MARKS[places[n]]) if n in places else Look(soft, "", False)
        for n in range(count)
    ]


def spread(count: int, most: int = NAMED) -> np.ndarray:
    """Places of the lines that stand out: the first, the last, and some between them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def others(looks_of: Sequence[Look]) -> int:
    """How many lines have no name of their own."""
    return sum(not look.named for look in looks_of)
