"""Maps of cells: a number per row and column as a colour, written in its cell where it fits.

Columns that are words, or whose cells hold words, continue in further panels below, so that every
label is legible; columns that are numbers keep every second, fifth or tenth label instead.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import QuadMesh
from matplotlib.ticker import MaxNLocator

from arcee_lab.views.figures.figure import (
    SMALL,
    WIDTH,
    Figure,
    diverging,
    ink,
    sequential,
    style,
)
from arcee_lab.views.html import number
from arcee_lab.views.scale import BLANK, Kind, colour
from arcee_lab.views.tokens import short

LETTER = 0.074  # inches: a letter of the smallest size
PITCH = 0.14  # inches between two upright labels
_LONGEST = 14  # characters of a column's label
_MOST_ROWS = 64  # rows that all have their label
_MOST_WORDS = 96  # columns that all have their word
_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


@dataclass(frozen=True)
class Shades:
    """What colours mean.

    Attributes:
        kind: `sequential` from `low` up, or `diverging` around 0.
        limit: The value of the strongest colour.
        low: The value of the weakest, on the sequential scale.
        blank: Values of this size or less have no colour.
    """

    kind: Kind = "sequential"
    limit: float = 1.0
    low: float = 0.0
    blank: float | None = None

    def masked(self, values: np.ndarray) -> np.ma.MaskedArray:
        """The values, without those that have no colour."""
        none = ~np.isfinite(values)
        if self.blank is not None:
            none |= np.abs(values) <= self.blank
        elif self.kind == "diverging":
            none |= np.abs(values) < BLANK * self.limit
        return np.ma.masked_array(values, none)

    def text(self, value: float, plain: str) -> str:
        """The colour of text in the cell of a value; `plain` where the cell has no colour."""
        if self.masked(np.array([value])).mask.any():
            return plain
        shade = colour(max(value - self.low, 1e-9 * self.limit) if self.kind == "sequential"
                       else value, self.limit - self.low, kind=self.kind)  # fmt: skip
        return shade.text if shade else plain


def strongest_colour(values: np.ndarray, limit: float | None = None) -> float:
    """The given limit, or the largest size among finite values; 1 where there is none."""
    return limit or float(np.abs(values[np.isfinite(values)]).max(initial=0)) or 1.0


def cell_map(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    shades: Shades,
    *,
    across: str,
    down: str,
    what: str,
    texts: Sequence[Sequence[str]] | None = None,
    numbers: bool = True,
    notes: Sequence[str] = (),
    upward: bool = False,
    finish: Callable[[Axes, int, int], None] | None = None,
    bar: bool = True,
    title: str = "",
    dark: bool = False,
) -> Figure:
    """Draws one map.

    Args:
        values: `[row, column]`; NaN has no colour.
        rows: What each row is.
        columns: What each column is.
        shades: What colours mean.
        across: What the columns are.
        down: What the rows are.
        what: What the numbers are, for the colour bar.
        texts: What the cells say; by default their numbers, where these fit.
        numbers: Whether cells say their numbers where these fit.
        notes: Text to the right of each row.
        upward: Whether the first row is the lowest.
        finish: Called with each panel's axes and its first and last column, to add to it.
        bar: Whether to draw the colour bar.
        title: The line above.
        dark: For a dark page.
    """
    names = [short(column, _LONGEST) for column in columns]
    words = len(names) <= _MOST_WORDS and not all(map(_numeric, names))
    left = 0.35 + LETTER * min(max(map(len, rows), default=0), 24)
    room = WIDTH - left - 0.1 - LETTER * max(map(len, notes), default=0)
    widest = _widest(values, texts, numbers)
    fits = room / max(len(columns), 1) >= widest
    least = widest if texts is not None else PITCH
    lines = -(-len(columns) // max(1, int(room / least))) if words or texts is not None else 1
    per = max(1, -(-len(columns) // max(lines, 1)))
    pitch = room / per
    longest = max(map(len, names), default=0)
    upright = all(map(_numeric, names)) or pitch >= LETTER * longest + 0.04
    written = texts is not None or (numbers and fits and len(rows) <= _MOST_ROWS)
    row = _row_height(len(rows), written=written)
    below = 0.22 if upright else 0.12 + LETTER * longest
    heights = len(rows) * row + below
    with style(dark=dark):
        figure = Figure(
            figsize=(WIDTH, 0.45 + lines * heights + (0.25 if across else 0) + 0.62 * bar),
            layout="constrained",
        )
        panels = figure.subplots(lines, 1, squeeze=False)[:, 0]
        mesh = None
        for at, axes in enumerate(panels):
            first, last = at * per, min((at + 1) * per, len(columns))
            mesh = draw(axes, values[:, first:last], shades, gaps=min(pitch, row) > 0.11, dark=dark)
            if written:
                part = texts and [line[first:last] for line in texts]
                write(axes, values[:, first:last], shades, part, dark=dark)
            label(axes.set_xticks, names[first:last], pitch, rotation=0 if upright else 90)
            label(axes.set_yticks, rows, row)
            axes.set_xlim(0, per)
            axes.set_ylim((0, len(rows)) if upward else (len(rows), 0))
            for place, note in enumerate(notes):
                axes.text(per + 0.15, place + 0.5, note, va="center", fontsize=SMALL)
            axes.set_ylabel(down)
            if finish is not None:
                finish(axes, first, last)
        panels[0].set_title(title)
        panels[-1].set_xlabel(across)
        if not written:
            panels[-1].set_xlabel(
                "\n".join(filter(None, (across, _largest(values, rows, names, (down, across)))))
            )
        if bar and mesh is not None:
            colour_bar(figure, mesh, list(panels), _with_blanks(what, values, shades))
    return figure


def draw(
    axes: Axes, values: np.ndarray, shades: Shades, *, gaps: bool, dark: bool = False
) -> QuadMesh:
    """Draws the colours of a map into axes, without labels.

    Args:
        axes: Where.
        values: `[row, column]`.
        shades: What colours mean.
        gaps: Whether to part cells by the colour of the paper.
        dark: For a dark page.
    """
    rows, columns = values.shape
    low = -shades.limit if shades.kind == "diverging" else shades.low
    mesh = axes.pcolormesh(
        shades.masked(values),
        cmap=diverging() if shades.kind == "diverging" else sequential(),
        vmin=low,
        vmax=shades.limit if shades.limit > low else low + 1.0,
        rasterized=True,
    )
    if gaps:
        paper: Any = axes.get_facecolor()
        axes.vlines(range(1, columns), 0, rows, color=paper, linewidth=1)
        axes.hlines(range(1, rows), 0, columns, color=paper, linewidth=1)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return mesh


def label(
    set_ticks: Callable[..., Any], names: Sequence[str], pitch: float, *, rotation: int = 0
) -> None:
    """Labels as many places as there is room for, at even distances.

    Args:
        set_ticks: Of axes: `set_xticks` or `set_yticks`.
        names: One name per place.
        pitch: Inches from place to place.
        rotation: Of the labels; 90 and rows need room for the height of a line alone.
    """
    flat = rotation == 0 and getattr(set_ticks, "__name__", "") == "set_xticks"
    need = LETTER * max(map(len, names), default=0) + 0.05 if flat else PITCH
    every = next((step for step in _STEPS if step * pitch >= need), _STEPS[-1])
    places = np.arange(0, len(names), every)
    set_ticks(
        places + 0.5, [names[place] for place in places.tolist()], rotation=rotation, fontsize=SMALL
    )


def colour_bar(
    figure: Figure, mesh: ScalarMappable, axes: list[Axes], what: str, *, ticks: int = 5
) -> None:
    """The bar below the panels that says what the colours mean.

    Args:
        figure: Where.
        mesh: What `draw` gave, or another picture of numbers.
        axes: The panels.
        what: What the numbers are.
        ticks: At most so many steps have a number; fewer below half of a figure's width.
    """
    locator = MaxNLocator(ticks, steps=[1, 2, 5, 10])
    bar = figure.colorbar(
        mesh, ax=axes, location="bottom", shrink=0.7, aspect=32, pad=0.02, ticks=locator
    )
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(labelsize=SMALL, length=2)
    bar.set_label(what, fontsize=SMALL)


def written_number(value: float, limit: float) -> str:
    """A number of a cell: two digits after the point, fewer where numbers are large."""
    digits = 2 if limit < 10 else 1 if limit < 100 else 0
    text = f"{value:.{digits}f}" if limit < 1000 else number(value)
    return (text[1:] if text in ("-0", "-0.0", "-0.00") else text).replace("-", "−")


def _numeric(name: str) -> bool:
    """Whether a label is a number, or numbers with points, such as "3" and "3.1"."""
    return name.replace(".", "").lstrip("-").isdigit()


def _row_height(rows: int, *, written: bool) -> float:
    if rows > _MOST_ROWS:
        return max(0.02, 0.145 * _MOST_ROWS / rows)
    return 0.2 if written else 0.15


def _widest(values: np.ndarray, texts: Sequence[Sequence[str]] | None, numbers: bool) -> float:
    """Inches that the widest text of a cell needs."""
    if texts is not None:
        longest = max((len(text) for line in texts for text in line), default=0)
    elif numbers:
        limit = strongest_colour(values)
        shown = (written_number(v, limit) for v in (np.nanmin(values), np.nanmax(values))
                 ) if np.isfinite(values).any() else ()  # fmt: skip
        longest = max(map(len, shown), default=4)
    else:
        longest = 4
    return LETTER * longest + 0.07


def write(
    axes: Axes,
    values: np.ndarray,
    shades: Shades,
    texts: Sequence[Sequence[str]] | None = None,
    *,
    dark: bool = False,
) -> None:
    """Writes into each cell its text, or its number.

    Args:
        axes: Where.
        values: `[row, column]`.
        shades: What colours mean, and so which text reads on them.
        texts: What the cells say; by default their numbers.
        dark: For a dark page.
    """
    for row, column in np.ndindex(values.shape):
        value = float(values[row, column])
        if texts is None and not np.isfinite(value):
            continue
        axes.text(
            column + 0.5,
            row + 0.5,
            texts[int(row)][int(column)]
            if texts is not None
            else written_number(value, shades.limit),
            ha="center",
            va="center",
            fontsize=SMALL,
            color=shades.text(value, ink(dark)),
        )


def _with_blanks(what: str, values: np.ndarray, shades: Shades) -> str:
    """What the numbers are, and from which size on a cell has a colour if some have none."""
    hidden = shades.masked(values).mask & np.isfinite(values) & (values != 0)
    if shades.kind == "sequential" or not hidden.any():
        return what
    least = BLANK * shades.limit if shades.blank is None else shades.blank
    return f"{what}; blank: closer to 0 than {least:.2g}"


def _largest(
    values: np.ndarray, rows: Sequence[str], columns: Sequence[str], place: tuple[str, str]
) -> str:
    """The three largest cells in words, for maps without numbers."""
    sizes = np.where(np.isfinite(values), np.abs(values), -1.0)
    order = np.argsort(-sizes, axis=None, kind="stable")[:3]
    limit = strongest_colour(values)
    found = [
        # A number stays on the line of its cell.
        f"{_join(rows[int(row)], columns[int(column)])}:\u00a0"
        + written_number(float(values[row, column]), limit)
        for row, column in zip(*np.unravel_index(order, values.shape), strict=True)
        if sizes[row, column] > 0
    ]
    return fill(f"largest ({_join(*place)}): {', '.join(found)}", 52) if found else ""


def _join(down: str, across: str) -> str:
    return "/".join(filter(None, (down, across)))
