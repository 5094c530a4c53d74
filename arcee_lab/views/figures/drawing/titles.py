"""Titles as wide as their figure: a long one takes several lines, and the axes make room."""

from textwrap import fill
from typing import Any

from matplotlib.figure import Figure
from matplotlib.text import Text

_N = "N\u00a0=\u00a0"  # stays on one line
_MARGIN = 6  # pixels between a title and the edge
_LETTERS = 12  # of a title per inch
_FAR = 0.2  # of a figure's width: axes that begin further right leave their title at its edge


def prepare(figure: Figure) -> None:
    """Breaks titles that no figure of this width can hold, before it is laid out; in place.

    The layout leaves room for the middle of a title, which a long one has beyond the page: axes
    with long names of rows would have no room left.

    Args:
        figure: Any figure.
    """
    most = int(_LETTERS * figure.get_figwidth())
    for axes in figure.axes:
        title: Any = axes._left_title  # type: ignore[attr-defined]
        text = title.get_text()
        if max(map(len, text.splitlines()), default=0) > most:
            title.set_text(fill(" ".join(text.split()).replace("N = ", _N), most))


def wrap(figure: Figure, renderer: Any) -> bool:
    """Breaks titles that are wider than their place, in place.

    Args:
        figure: A figure that has been laid out.
        renderer: What measures the text.

    Returns:
        Whether a title has changed, so that the figure must be laid out again.
    """
    changed = False
    suptitle: Any = figure.get_suptitle() and figure._suptitle  # type: ignore[attr-defined]
    if suptitle:
        changed |= _wrap(suptitle, figure.bbox.width, renderer)
    for axes in figure.axes:
        axes.apply_aspect()  # a square one begins further right than its place
        spec = axes.get_subplotspec()
        alone = spec is None or spec.colspan.stop == spec.get_gridspec().ncols
        end = figure.bbox.width if alone else axes.bbox.x1
        title: Any = axes._left_title  # type: ignore[attr-defined]
        if not suptitle and axes is figure.axes[0]:
            # The title of the whole figure, which long names of rows must not push to the right.
            left = (_MARGIN - axes.bbox.x0) / axes.bbox.width
            title.set_x(left if axes.bbox.x0 > _FAR * figure.bbox.width else 0.0)
        changed |= _wrap(title, end, renderer)
        middle = axes.bbox.x0 + axes.bbox.width / 2  # where a name is centred
        room = 2 * min(middle, figure.bbox.width - middle) - _MARGIN
        changed |= _shorten(axes.xaxis.label, room, renderer)
        changed |= _shorten(axes.yaxis.label, axes.bbox.height, renderer)
    return changed


def _shorten(label: Text, room: float, renderer: Any) -> bool:
    """Breaks a name of an axis that is longer than there is room."""
    text = label.get_text()
    if not text.strip() or "\n" in text:
        return False
    box = label.get_window_extent(renderer)
    length = max(box.width, box.height)  # a name of one line, upright or not
    if length <= room:
        return False
    label.set_text(fill(text, max(12, int(len(text) * room / length))))
    return label.get_text() != text


def _wrap(title: Text, end: float, renderer: Any) -> bool:
    text = title.get_text()
    if not text:
        return False
    box = title.get_window_extent(renderer)
    room = max(end - box.x0 - _MARGIN, 1.0)
    if box.width <= room:
        return False
    longest = max(map(len, text.splitlines()))
    found = fill(
        " ".join(text.split()).replace("N = ", _N), max(8, int(longest * room / box.width))
    )
    title.set_text(found)
    return found != text
