"""Curves with intervals, and a grid of cells: layers or neurons against anything."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from arcee_lab.views.figures.figure import Figure, new, sequential, style
from arcee_lab.views.scale import CATEGORIES

_FEW = len(CATEGORIES)  # more lines than this are coloured by the sequential scale


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        name: For the legend; "" leaves it out.
        x: `[point]`.
        y: `[point]`; NaN breaks the line.
        ci_half_width: `[point]`, ci_half_width of an interval, drawn as a band; None draws none.
        dashed: For baselines: drawn dashed.
        of: The number of the curve that this is a baseline of; it gets its colour.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    ci_half_width: np.ndarray | None = None
    dashed: bool = False
    of: int | None = None


def lines(
    curves: Sequence[Line],
    *,
    x: str,
    y: str,
    title: str = "",
    log_x: bool = False,
    log_y: bool = False,
    mark: float | int | None = None,
    dark: bool = False,
) -> Figure:
    """Curves over a common axis.

    Args:
        curves: What to draw; baselines behind what they belong to.
        x: Name of the horizontal axis.
        y: Name of the vertical axis.
        title: The line above.
        log_x: Whether the horizontal axis is logarithmic.
        log_y: Whether the vertical axis is logarithmic.
        mark: Where to put a dotted vertical line.
        dark: For a dark page.
    """
    solid = [number for number, curve in enumerate(curves) if curve.of is None]
    shades = sequential(dark=dark)
    colours = {
        number: CATEGORIES[place] if len(solid) <= _FEW else shades(0.25 + 0.7 * place / len(solid))
        for place, number in enumerate(solid)
    }
    with style(dark=dark):
        figure, (axes,) = new(3.4)
        for number, curve in enumerate(curves):
            colour = colours[number if curve.of is None else curve.of]
            axes.plot(
                curve.x,
                curve.y,
                color=colour,
                linestyle="--" if curve.dashed else "-",
                linewidth=1.0 if curve.dashed else 1.6,
                marker="o" if len(curve.x) <= 12 and not curve.dashed else None,
                markersize=3,
                label=curve.name or None,
            )
            if curve.ci_half_width is not None:
                low, high = curve.y - curve.ci_half_width, curve.y + curve.ci_half_width
                axes.fill_between(curve.x, low, high, color=colour, alpha=0.18, linewidth=0)
        if mark is not None:
            axes.axvline(mark, color=axes.xaxis.label.get_color(), linestyle=":", linewidth=1)
        axes.set(xlabel=x, ylabel=y)
        if log_x:
            axes.set_xscale("log")
        elif all(np.issubdtype(np.asarray(curve.x).dtype, np.integer) for curve in curves):
            locator = cast(Any, axes.xaxis.get_major_locator())  # MaxNLocator, on a linear axis
            locator.set_params(integer=True)  # there is no layer 1.5
        if log_y:
            axes.set_yscale("log")
        axes.grid(linewidth=0.5)
        axes.set_title(title)
        named = sum(bool(curve.name) for curve in curves)
        if named:
            figure.legend(loc="outside right upper", fontsize=7, ncols=1 if named <= 20 else 2)
    return figure


def grid(
    cells: np.ndarray,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    x: str,
    y: str,
    what: str,
    title: str = "",
    limits: tuple[float | int, float | int] | None = None,
    dark: bool = False,
) -> Figure:
    """One number per cell as a colour; NaN stays the paper's colour.

    Args:
        cells: `[row, column]`.
        rows: Labels; some are left out where there are many.
        columns: Labels, likewise.
        x: Name of the horizontal axis.
        y: Name of the vertical axis.
        what: What the colour means.
        title: The line above.
        limits: Ends of the colour scale; by default those of the cells.
        dark: For a dark page.
    """
    with style(dark=dark):
        figure, (axes,) = new(min(5.0, 1.5 + 0.22 * len(cells)))
        low, high = limits or (None, None)
        image = axes.imshow(
            np.ma.masked_invalid(cells),
            aspect="auto",
            interpolation="nearest",
            cmap=sequential(dark=dark),
            vmin=low,
            vmax=high,
        )
        for labels, axis in ((columns, axes.xaxis), (rows, axes.yaxis)):
            step = max(1, -(-len(labels) // 24))
            axis.set_ticks(range(0, len(labels), step), list(labels)[::step])
        if max(map(len, columns), default=0) > 3:
            axes.tick_params(axis="x", rotation=90, labelsize=7)
        axes.set(xlabel=x, ylabel=y)
        axes.set_title(title)
        figure.colorbar(image, ax=axes, label=what)
    return figure
