"""Colours that colour-blind eyes can order, on light and on dark pages alike.

A value has one colour, whatever the page: the stronger it is, the deeper. The deepest colours stand
out from white and from black by 3:1 at least, so nothing strong sinks into a dark page; what is
zero or missing has no colour and keeps the page's own. Sequential is blue; diverging is the same
blue below 0, and orange above. Both order by lightness alone. No text is put on the lightnesses
on which neither black nor white reads well: the scales pass them within 7 % of their range.
"""

import math
from typing import Literal, NamedTuple

SEQUENTIAL = ("#cbd6e0", "#8fb9de", "#5598d4", "#3273bc", "#1f62b5")
_POSITIVE = ("#e6d9c8", "#e6bb85", "#d98f35", "#b25e10", "#a04f00")
DIVERGING = (*SEQUENTIAL[::-1], "#e1e1e1", *_POSITIVE)
# Where along the scale each anchor stands, from 0 to 1.
PLACES = (0.0, 0.4, 0.8, 0.87, 1.0)
_STEPS = (0.02, *PLACES[1:])  # of one side of the diverging scale, from its middle
DIVERGING_PLACES = tuple(0.5 + x / 2 for x in (*(-s for s in _STEPS[::-1]), 0.0, *_STEPS))
# One colour per category. All of them stand out from white and from black by 3:1, and every two
# differ for the three kinds of colour-blind eyes; views add a mark or a pattern of their own.
CATEGORIES = ("#0072b2", "#cf7d00", "#009e73", "#9f49f5", "#f54966", "#666638")
BLANK = 1 / 50  # of the limit: a signed value below it has no colour

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
        The colour, or None where there is nothing to show: an exact zero, NaN, no limit, or on the
        diverging scale less than a fiftieth of it. The cell then keeps the page's own colours,
        light or dark.
    """
    if value == 0 or not math.isfinite(value) or not limit > 0:
        return None
    share = min(max(value / limit, -1.0), 1.0)
    if kind == "diverging":
        if abs(share) < BLANK:
            return None
        background = _blend(DIVERGING, DIVERGING_PLACES, (share + 1) / 2)
    else:
        background = _blend(SEQUENTIAL, PLACES, max(share, 0.0))
    return Colour(background, text_on(background))


def text_on(background: str) -> str:
    """Black or white, whichever has the higher contrast on a `#rrggbb` colour."""
    return max("#000000", "#ffffff", key=lambda ink: contrast(ink, background))


def contrast(first: str, second: str) -> float:
    """WCAG contrast ratio of two `#rrggbb` colours, from 1 to 21; text wants 4.5 or more."""
    low, high = sorted((_luminance(first), _luminance(second)))
    return (high + 0.05) / (low + 0.05)


def _blend(anchors: tuple[str, ...], places: tuple[float, ...], share: float) -> str:
    left = max(at for at in range(len(anchors) - 1) if places[at] <= share or at == 0)
    part = (share - places[left]) / (places[left + 1] - places[left])
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
