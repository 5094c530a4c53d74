"""Scores of the best unit of each label as dots with intervals, next to the controls."""

from collections.abc import Mapping, Sequence

import numpy as np

from arcee_lab.views.figures.figure import Figure, new, style
from arcee_lab.views.scale import CATEGORIES


def found_bars(
    names: Sequence[str],
    scores: Sequence[tuple[float, float, float]],
    controls: Mapping[str, Sequence[float]],
    *,
    dark: bool = False,
) -> Figure:
    """Draws one row per label: the score with its interval, and one mark per control.

    Args:
        names: What each row is.
        scores: Score, lower and upper end of the interval.
        controls: Name of a control -> its score in each row, NaN where it is missing.
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
                axes.scatter(found, rows, s=20, marker="x", color=CATEGORIES[place], label=name)
        axes.set_yticks(rows, names)
        axes.set(xlim=(0, 1.02), xlabel="F1 on the confirmation texts")
        axes.invert_yaxis()
        axes.grid(axis="x", linewidth=0.5)
        axes.legend(loc="lower right", fontsize=8)
    return figure
