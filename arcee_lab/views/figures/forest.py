"""A forest plot: differences with their intervals, one row each, around a line at 0."""

from collections.abc import Sequence
from typing import NamedTuple

from arcee_lab.views.figures.figure import WIDTH, Figure, style
from arcee_lab.views.html import number
from arcee_lab.views.scale import CATEGORIES

_ROW = 0.24  # inches


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
            place.axvline(0, color="#8a94a3", linewidth=0.8)
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
                    fontsize=8,
                )
            place.set_yticks(range(len(rows)), [row.label for row in rows])
            place.set_ylim(len(rows) - 0.4, -0.6)
            place.set_title(heading)
            place.margins(x=0.08)
        axes[-1].set_xlabel(x)
        figure.suptitle(title, fontsize=9, x=0.01, ha="left", wrap=True)
    return figure
