"""Numbers with their intervals, one row each: differences around 0, scores, and controls."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.ticker import MaxNLocator

from arcee_lab.errors import SettingError
from arcee_lab.views.figures.figure import SMALL, WIDTH, Figure, ink, new, style
from arcee_lab.views.html import number
from arcee_lab.views.scale import CATEGORIES

_ROW = 0.24  # inches
_CONTROLS = "x+1"  # marks


class Row(NamedTuple):
    """One number.

    Attributes:
        label: Its name.
        value: The number.
        low: Lower end of its interval.
        high: Upper end.
        clear: Whether a difference is clear after the correction for many tests.
        ceiling: The best that a score can reach; NaN where nobody knows.
    """

    label: str
    value: float
    low: float
    high: float
    clear: bool = True
    ceiling: float = math.nan


def interval_rows(
    panels: Sequence[tuple[str, Sequence[Row]]],
    *,
    x: str = "",
    differences: bool = False,
    title: str = "",
    dark: bool = False,
) -> Figure:
    """Draws one panel per metric, one below the other, each with its own horizontal axis.

    The number stands to the right. A filled mark is a clear difference, or a score; an open one is
    a difference that may be chance.

    Args:
        panels: Title and rows of each.
        x: Name of the horizontal axis.
        differences: Whether numbers are differences: a line is drawn at 0, and their intervals
            stand next to them.
        title: The line above.
        dark: For a dark page.

    Raises:
        ValueError: There is no panel.
    """
    if not panels:
        raise SettingError("there is nothing to draw; expected one panel or more.")
    heights = [0.55 + _ROW * len(rows) for _, rows in panels]
    with style(dark=dark):
        figure = Figure(figsize=(WIDTH, 0.8 + sum(heights)), layout="constrained")
        axes = figure.subplots(
            len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights}
        )[:, 0]
        marks: dict[str, Artist] = {}
        for place, (heading, rows) in zip(axes, panels, strict=True):
            if differences:
                place.axvline(0, color=ink(dark), linewidth=0.8)
            for at, row in enumerate(rows):
                blue = {"color": CATEGORIES[0]}
                place.plot([row.low, row.high], [at, at], linewidth=1.6, **blue)
                face = {} if row.clear else {"markerfacecolor": "none"}
                (dot,) = place.plot(row.value, at, "o", markersize=5, linestyle="", **blue, **face)
                if differences:
                    name = "clear difference" if row.clear else "may be chance"
                else:
                    name = "score, 95% interval"
                marks.setdefault(name, dot)
                if not math.isnan(row.ceiling):
                    shape = {"markersize": 11, "markeredgewidth": 2, "linestyle": ""}
                    (bar,) = place.plot(row.ceiling, at, "|", color=CATEGORIES[1], **shape)
                    marks.setdefault("best possible", bar)
                said = number(row.value, aligned=not differences)
                if differences:
                    said += f" [{number(row.low)}, {number(row.high)}]"
                place.annotate(
                    said,
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
            place.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
            place.grid(axis="x", linewidth=0.5)
        if len(axes):
            axes[-1].set_xlabel(x)
        figure.legend(list(marks.values()), list(marks), loc="outside lower center", ncols=2)
        figure.suptitle(title, fontsize=10, x=0.01, ha="left", fontweight="bold")
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
        figure, (axes,) = new(1.4 + _ROW * len(names))
        interval = {"color": CATEGORIES[0], "linewidth": 2}
        axes.hlines(rows, low, high, label="95% interval", **interval)
        axes.scatter(value, rows, s=24, color=CATEGORIES[0], label="best unit", zorder=3)
        for place, (name, found) in enumerate(controls.items(), start=1):
            if np.isfinite(found).any():
                axes.scatter(
                    found,
                    rows + 0.2 * place,  # lower in the row, so that an equal score is seen too
                    s=20,
                    zorder=4,
                    marker=_CONTROLS[place % 3],
                    color=CATEGORIES[place],
                    label=name,
                )
        axes.set_yticks(rows, names)
        axes.set(xlim=(0, 1.02), xlabel="F1 on the confirmation texts")
        axes.set_ylim(len(names) - 0.2, -0.6)
        axes.grid(axis="x", linewidth=0.5)
        axes.set_title(title)
        figure.legend(loc="outside lower center", fontsize=SMALL, ncols=3)
    return figure
