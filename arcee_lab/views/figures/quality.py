"""Quality against sparsity: one panel per task, one curve per family, intervals as bars."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.lines import Line2D

from arcee_lab.views.figures.figure import SMALL, WIDTH, Figure, style
from arcee_lab.views.scale import CATEGORIES

_MARKS = "osD^vP"


@dataclass(frozen=True)
class Curve:
    """Levels that belong together.

    Attributes:
        name: For the legend.
        points: (x, value, low, high) of each, x above 0.
    """

    name: str
    points: Sequence[tuple[float, float, float, float]]


def quality_panels(
    panels: Sequence[tuple[str, Sequence[Curve]]],
    *,
    x: str,
    log_x: bool = True,
    title: str = "",
    dark: bool = False,
) -> Figure:
    """Draws curves with intervals, one panel per task; single points have a dotted line across.

    Args:
        panels: Title and curves of each.
        x: Name of the horizontal axis.
        log_x: Whether it is logarithmic.
        title: The line above.
        dark: For a dark page.
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    with style(dark=dark):
        figure = Figure(figsize=(WIDTH, 1.1 + 2.2 * rows), layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
        names = list(dict.fromkeys(curve.name for _, curves in panels for curve in curves))
        looks = {
            name: (CATEGORIES[n % len(CATEGORIES)], _MARKS[n % len(_MARKS)])
            for n, name in enumerate(names)
        }
        single = {curve.name for _, curves in panels for curve in curves if len(curve.points) == 1}
        for place, (heading, curves) in zip(axes, panels, strict=False):
            for curve in curves:
                colour, mark = looks[curve.name]
                at, value, low, high = np.array(curve.points, dtype=float).T
                spread = np.clip([value - low, high - value], 0, None)
                place.errorbar(
                    at,
                    value,
                    yerr=spread,
                    color=colour,
                    marker=mark,
                    markersize=4,
                    linewidth=1.4 if len(at) > 1 else 0,
                    elinewidth=0.9,
                    capsize=2,
                    zorder=4 if len(at) == 1 else 2,
                )
                if len(at) == 1:
                    place.axhline(value[0], color=colour, linewidth=1.3, linestyle=":")
            if log_x:
                place.set_xscale("log")
            place.set_title(heading, fontsize=9)
            place.grid(axis="y")
        for spare in axes[len(panels) :]:
            spare.set_visible(False)
        # The legend shows what is drawn: a mark on a dotted line where that is all there is.
        handles = [
            Line2D([], [], color=colour, marker=mark, markersize=4, label=name,
                   linestyle=":" if name in single else "-")
            for name, (colour, mark) in looks.items()
        ]  # fmt: skip
        figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=SMALL)
        for place in axes[max(0, len(panels) - columns) : len(panels)]:
            place.set_xlabel(x)
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure
