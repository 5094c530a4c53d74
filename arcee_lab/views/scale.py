"""Colours that colour-blind eyes can order, and text that stays readable on them.

Sequential runs from pale to dark blue; diverging from blue over white to orange. Neither needs red
distinguished from green, and both order by lightness alone.
"""

import math
from typing import Literal, NamedTuple

SEQUENTIAL = ("#e6eff8", "#b4d0ea", "#6ba6d6", "#2b6cb0", "#123f78")
DIVERGING = ("#1d4e89", "#7fb0dc", "#f5f5f5", "#f0a860", "#a04a00")
# One colour per category, from Okabe and Ito's palette for colour-blind readers (2008).
CATEGORIES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")

Kind = Literal["sequential", "diverging"]


class Colour(NamedTuple):
    """A background and the text colour that reads on it, as `#rrggbb`."""

    background: str
    text: str


def colour(value: float | int, limit: float | int, *, kind: Kind = "sequential") -> Colour | None:
    """The colour of a value.

    Args:
        value: What to colour.
        limit: The value, above 0, that gets the strongest colour; larger ones are clipped to it.
        kind: `sequential` colours 0..limit, `diverging` colours -limit..limit.

    Returns:
        The colour, or None where there is nothing to show: an exact zero, NaN, or no limit. The
        cell then keeps the page's own colours, light or dark.
    """
    if value == 0 or not math.isfinite(value) or not limit > 0:
        return None
    share = min(max(value / limit, -1.0), 1.0)
    if kind == "diverging":
        background = _blend(DIVERGING, (share + 1) / 2)
    else:
        background = _blend(SEQUENTIAL, max(share, 0.0))
    return Colour(background, "#000000" if _luminance(background) > 0.18 else "#ffffff")


def contrast(first: str, second: str) -> float:
    """WCAG contrast ratio of two `#rrggbb` colours, from 1 to 21; text wants 4.5 or more."""
    low, high = sorted((_luminance(first), _luminance(second)))
    return (high + 0.05) / (low + 0.05)


def _blend(anchors: tuple[str, ...], share: float) -> str:
    place = share * (len(anchors) - 1)
    left = min(int(place), len(anchors) - 2)
    part = place - left
    pairs = zip(_rgb(anchors[left]), _rgb(anchors[left + 1]), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * part):02x}" for a, b in pairs)


def _rgb(hexadecimal: str) -> tuple[int, int, int]:
    red, green, blue = (int(hexadecimal[at : at + 2], 16) for at in (1, 3, 5))
    return red, green, blue


def _luminance(hexadecimal: str) -> float:
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (channel / 255 for channel in _rgb(hexadecimal))
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
