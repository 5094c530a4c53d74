"""Curves with intervals, and a grid of cells: layers or neurons against anything."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from matplotlib.ticker import FuncFormatter

from arcee_lab.views.arrays import floats
from arcee_lab.views.figures.drawing.cells import Shades, cell_map
from arcee_lab.views.figures.drawing.series import Look, looks, others
from arcee_lab.views.figures.figure import SMALL, Figure, ink, new, soft, style


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
    shares: str = "",
    mark: float | int | None = None,
    mark_name: str = "",
    dark: bool = False,
) -> Figure:
    """Curves over a common axis.

    Up to six curves get a colour and a mark each. Of more, such as 36 layers, five have one, the
    first and the last among them; the others are thin, and the legend says how many they are.

    Args:
        curves: What to draw; baselines behind what they belong to.
        x: Name of the horizontal axis.
        y: Name of the vertical axis.
        title: The line above.
        log_x: Whether the horizontal axis is logarithmic.
        log_y: Whether the vertical axis is logarithmic.
        shares: Axes whose numbers are shares and are written as percentages: "y" or "xy".
        mark: Where to put a dotted vertical line.
        mark_name: What the line means.
        dark: For a dark page.
    """
    own = [number for number, curve in enumerate(curves) if not curve.dashed and curve.of is None]
    found = dict(zip(own, looks(len(own), soft(dark)), strict=True))
    with style(dark=dark):
        figure, (axes,) = new(3.3)
        for number, curve in enumerate(curves):
            look = found.get(number if curve.of is None else curve.of, Look(ink(dark), ""))
            if curve.of is not None and not look.named:
                continue  # a baseline of a thin line
            label = curve.name if look.named else ""
            points = len(curve.x)
            axes.plot(
                curve.x, curve.y, label=label or None, **look.options(points, dashed=curve.dashed)
            )
            if curve.ci_half_width is not None and look.named:
                low, high = curve.y - curve.ci_half_width, curve.y + curve.ci_half_width
                axes.fill_between(curve.x, low, high, color=look.colour, alpha=0.18, linewidth=0)
        left = others(list(found.values()))
        if left:
            axes.plot([], [], color=soft(dark), linewidth=0.7, label=f"the other {left}")
        if mark is not None:
            name = mark_name or None
            axes.axvline(mark, color=ink(dark), linestyle=":", linewidth=1.2, label=name)
        axes.set(xlabel=x, ylabel=y)
        if log_x:
            axes.set_xscale("log")
        elif all(np.issubdtype(np.asarray(curve.x).dtype, np.integer) for curve in curves):
            locator = cast(Any, axes.xaxis.get_major_locator())  # MaxNLocator, on a linear axis
            locator.set_params(integer=True)  # there is no layer 1.5
        if log_y:
            axes.set_yscale("log")
        for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
            if name in shares:
                axis.set_major_formatter(FuncFormatter(percent))
                axis.set_minor_formatter("")
        axes.grid(linewidth=0.5)
        axes.set_title(title)
        legend(figure)
    return figure


def percent(value: float, place: object = None) -> str:
    """0.05 as 5%, with as many digits as small shares need."""
    return f"{100 * value:.3g}%"


def legend(figure: Figure, of: int = 0) -> None:
    """The legend below all axes of a figure, in as many columns as its names leave room for.

    Args:
        figure: Where.
        of: Number of the axes that it is about.
    """
    handles, names = figure.axes[of].get_legend_handles_labels()
    if names:
        columns = max(1, min(4, len(names), int(62 / (max(map(len, names)) + 7))))
        figure.legend(
            handles, names, loc="outside lower center", fontsize=SMALL, ncols=columns,
            columnspacing=1.2, handlelength=2.2,
        )  # fmt: skip


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
    """One number per cell as a colour; NaN has no colour.

    Args:
        cells: `[row, column]`.
        rows: Labels; some are left out where there are many.
        columns: Labels; some numbers are left out where there are many, and words continue below.
        x: Name of the horizontal axis.
        y: Name of the vertical axis.
        what: What the colour means.
        title: The line above.
        limits: Ends of the colour scale; by default those of the cells.
        dark: For a dark page.
    """
    cells = floats(cells)
    known = cells[np.isfinite(cells)]
    low, high = limits or (float(known.min(initial=0)), float(known.max(initial=0)) or 1.0)
    return cell_map(
        cells,
        rows,
        columns,
        Shades(limit=float(high), low=float(low)),
        across=x,
        down=y,
        what=what,
        title=title,
        dark=dark,
    )
