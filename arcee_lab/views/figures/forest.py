"""Numbers with their intervals, one row each: differences around 0, and scores with controls."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from arcee_lab.views.figures.figure import SMALL, WIDTH, Figure, ink, new, style
from arcee_lab.views.html import number
from arcee_lab.views.scale import CATEGORIES

_ROW = 0.24  # inches
_CONTROLS = "x+1"  # marks


class Row(NamedTuple):
    """One difference.

    Attributes:
        label: Its name.
        value: The difference.
        low: Lower end of its interval.
        high: Upper end.
        clear: Whether it is clear after the correction for many tests.
    """

    label: str
    value: float
    low: float
    high: float
    clear: bool


def forest_panels(
    panels: Sequence[tuple[str, Sequence[Row]]], *, x: str, title: str = "", dark: bool = False
) -> Figure:
    """Draws one panel per metric, one below the other, each with its own horizontal axis.

    A filled mark is a clear difference, an open one is not; the number stands to the right.

    Args:
        panels: Title and rows of each.
        x: Name of the horizontal axis.
        title: The line above.
        dark: For a dark page.
    """
    heights = [0.55 + _ROW * len(rows) for _, rows in panels]
    with style(dark=dark):
        figure = Figure(figsize=(WIDTH, 0.7 + sum(heights)), layout="constrained")
        axes = figure.subplots(
            len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights}
        )[:, 0]
        for place, (heading, rows) in zip(axes, panels, strict=True):
            place.axvline(0, color=ink(dark), linewidth=0.8)
            for at, row in enumerate(rows):
                colour = CATEGORIES[0]
                place.plot([row.low, row.high], [at, at], color=colour, linewidth=1.6)
                place.plot(
                    row.value,
                    at,
                    "o",
                    color=colour,
                    markersize=5,
                    markerfacecolor=colour if row.clear else "none",
                )
                place.annotate(
                    f"{number(row.value)} [{number(row.low)}, {number(row.high)}]",
                    (1.0, at),
                    xycoords=("axes fraction", "data"),
                    xytext=(4, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=SMALL,
                )
            place.set_yticks(range(len(rows)), [row.label for row in rows])
            place.set_ylim(len(rows) - 0.4, -0.6)
            place.set_title(heading)
            place.margins(x=0.08)
        axes[-1].set_xlabel(x)
        figure.suptitle(title, fontsize=9.5, x=0.01, ha="left")
    return figure


def found_bars(
    names: Sequence[str],
    scores: Sequence[tuple[float, float, float]],
    controls: Mapping[str, Sequence[float]],
    *,
    title: str = "",
    dark: bool = False,
) -> Figure:
    """Draws one row per label: the score with its interval, and one mark per control.

    Args:
        names: What each row is.
        scores: Score, lower and upper end of the interval.
        controls: Name of a control -> its score in each row, NaN where it is missing.
        title: The line above.
        dark: For a dark page.
    """
    rows = np.arange(len(names))
    value, low, high = np.array(scores, dtype=float).reshape(-1, 3).T
    with style(dark=dark):
        figure, (axes,) = new(0.9 + 0.24 * len(names))
        axes.hlines(rows, low, high, color=CATEGORIES[0], linewidth=2, alpha=0.6)
        axes.scatter(value, rows, s=24, color=CATEGORIES[0], label="best unit", zorder=3)
        for place, (name, found) in enumerate(controls.items(), start=1):
            if np.isfinite(found).any():
                axes.scatter(
                    found,
                    rows,
                    s=20,
                    marker=_CONTROLS[place % 3],
                    color=CATEGORIES[place],
                    label=name,
                )
        axes.set_yticks(rows, names)
        axes.set(xlim=(0, 1.02), xlabel="F1 on the confirmation texts")
        axes.invert_yaxis()
        axes.grid(axis="x", linewidth=0.5)
        axes.set_title(title)
        figure.legend(loc="outside lower center", fontsize=SMALL, ncols=3)
    return figure
