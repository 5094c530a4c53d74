"""Scores with their intervals and ceilings, one row each and one panel per metric."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.artist import Artist

from arcee_lab.views.figures.figure import SMALL, WIDTH, Figure, style
from arcee_lab.views.html import number
from arcee_lab.views.scale import CATEGORIES

_ROW = 0.24  # inches


class Row(NamedTuple):
    """One score.

    Attributes:
        label: Its name.
        value: The score.
        low: Lower end of its interval.
        high: Upper end.
        ceiling: The best that can be reached; NaN where nobody knows.
    """

    label: str
    value: float
    low: float
    high: float
    ceiling: float


def score_rows(
    panels: Sequence[tuple[str, Sequence[Row]]], *, title: str = "", dark: bool = False
) -> Figure:
    """Draws one panel per metric, each with an axis of its own that shows where the scores are.

    Args:
        panels: Name of a metric, and its rows.
        title: The line above.
        dark: For a dark page.
    """
    heights = [0.55 + _ROW * len(rows) for _, rows in panels]
    with style(dark=dark):
        figure = Figure(figsize=(WIDTH, 0.8 + sum(heights)), layout="constrained")
        axes = figure.subplots(
            len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights}
        )[:, 0]
        marks: dict[str, Artist] = {}
        for place, (heading, rows) in zip(axes, panels, strict=True):
            for at, row in enumerate(rows):
                place.plot([row.low, row.high], [at, at], color=CATEGORIES[0], linewidth=1.6)
                (dot,) = place.plot(
                    row.value, at, "o", color=CATEGORIES[0], markersize=5, linestyle="none"
                )
                marks["score, 95 % interval"] = dot
                if not math.isnan(row.ceiling):
                    (bar,) = place.plot(
                        row.ceiling,
                        at,
                        "|",
                        color=CATEGORIES[1],
                        markersize=11,
                        markeredgewidth=2,
                        linestyle="none",
                    )
                    marks["ceiling"] = bar
                place.annotate(
                    number(row.value, aligned=True),
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
            place.grid(axis="x", linewidth=0.5)
        figure.legend(list(marks.values()), list(marks), loc="outside lower center", ncols=2)
        figure.suptitle(title, fontsize=10, x=0.01, ha="left", fontweight="bold")
    return figure
