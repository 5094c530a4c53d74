"""Which unit fires at which token: a raster with the words below."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from arcee_lab.errors import SettingError
from arcee_lab.views.arrays import floats
from arcee_lab.views.figures.drawing.cells import Shades, cell_map
from arcee_lab.views.figures.figure import SMALL, Figure, ink, style
from arcee_lab.views.scale import CATEGORIES, text_on


def raster(
    values: np.ndarray,
    tokens: Sequence[str],
    rows: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    notes: Sequence[str] | None = None,
    marks: Sequence[str | None] | None = None,
    blank: str = "exactly zero",
    across: str = "token",
    down: str = "neuron",
    title: str = "",
    dark: bool = False,
) -> Figure:
    """Draws one row per unit and one column per token; values of exactly zero are blank.

    Each row is scaled by its own largest value: the deepest blue is that unit's strongest response
    here. The square root of that share is shown, which spreads the small values of a squared
    activation.

    Args:
        values: `[row, pos]`, from 0 up.
        tokens: The text below the columns.
        rows: What each row is.
        groups: One name per row; rows of one name stand together and a line parts the groups.
        notes: Text to the right of each row, such as its firing rate.
        marks: A category per token, or None; marked tokens carry its colour and a legend names it.
        blank: What a value of zero means.
        across: What the columns are.
        down: What the rows are.
        title: The line above.
        dark: For a dark page.

    Raises:
        ValueError: The labels do not match the values' shape.
    """
    values = floats(values)
    if values.shape != (len(rows), len(tokens)):
        raise SettingError(
            f"values are {values.shape}; expected ({len(rows)} rows, {len(tokens)} tokens)."
        )
    peak = values.max(axis=1, keepdims=True, initial=0)
    share = np.divide(values, peak, out=np.zeros(values.shape), where=peak > 0)
    names = list(dict.fromkeys(mark for mark in marks or () if mark is not None))
    colours = {name: CATEGORIES[place % len(CATEGORIES)] for place, name in enumerate(names)}

    def finish(axes: Axes, first: int, last: int) -> None:
        if groups is not None and len(set(groups)) < len(rows):
            _part(axes, groups, ink(dark))
        for text, mark in zip(axes.get_xticklabels(), (marks or ())[first:last], strict=False):
            if mark is not None:
                text.set_color(text_on(colours[mark]))
                text.set_backgroundcolor(colours[mark])
                text.set_bbox({"facecolor": colours[mark], "edgecolor": "none", "pad": 1.5})

    figure = cell_map(
        np.sqrt(share),
        rows,
        tokens,
        Shades(blank=0.0),
        across=across,
        down=down,
        what=f"√ of the value, as a share of the row's largest; blank: {blank}",
        numbers=False,
        notes=notes or (),
        finish=finish,
        title=title,
        dark=dark,
    )
    figure.axes[-2 if len(figure.axes) > 1 else -1].set_xlabel(across)
    if names:
        with style(dark=dark):
            patches = [Patch(color=colour, label=name) for name, colour in colours.items()]
            figure.legend(handles=patches, loc="outside lower center", ncols=3, fontsize=SMALL)
    return figure


def _part(axes: Axes, groups: Sequence[str], colour: str) -> None:
    for row in range(1, len(groups)):
        if groups[row] != groups[row - 1]:
            axes.axhline(row, color=colour, linewidth=0.8)
