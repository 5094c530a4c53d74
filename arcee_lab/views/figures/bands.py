"""Measured points with their intervals, joined by lines: what is lost against what is kept."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator

from arcee_lab.views.figures.curves import legend, percent
from arcee_lab.views.figures.drawing.series import Look, looks, others
from arcee_lab.views.figures.figure import SMALL, Figure, ink, new, soft, style


@dataclass(frozen=True)
class Band:
    """One line with its band.

    Attributes:
        name: For the legend.
        x: `[point]`.
        y: `[point]`.
        low: `[point]`, the lower end of the interval, or None for a line without one.
        high: `[point]`, its upper end.
        dashed: For what the others are compared with, such as chance.
        dots: Whether to mark the points: they are measured, and what is between them is not.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    dashed: bool = False
    dots: bool = True


@dataclass(frozen=True)
class Axis:
    """How one axis is drawn.

    Attributes:
        label: What it measures, with its unit.
        scale: A matplotlib scale: "linear", "log", "symlog" or "logit".
        percent: Whether to write 0.05 as 5%.
        limits: Its ends; None in place of one leaves it to the data.
        options: For the scale, such as `linthresh`.
    """

    label: str
    scale: str = "linear"
    percent: bool = False
    limits: tuple[float | None, float | None] | None = None
    options: dict[str, Any] = field(default_factory=dict)


def bands(
    lines: Sequence[Band],
    *,
    x: Axis,
    y: Axis,
    title: str = "",
    marks: Sequence[tuple[float, str]] = (),
    levels: Sequence[tuple[float, str]] = (),
    named_at: Literal["left", "right"] = "left",
    height: float = 3.2,
    dark: bool = False,
) -> Figure:
    """Draws lines against one axis.

    Up to six lines get a colour and a mark each. Of more, such as 36 layers, five have one, the
    first and the last among them; the others are thin, and the legend says how many they are.

    Args:
        lines: What to draw.
        x: The horizontal axis.
        y: The vertical one.
        title: The line above.
        marks: `(x, name)`, vertical lines.
        levels: `(y, name)`, horizontal lines.
        named_at: The end at which these have their names.
        height: In inches.
        dark: For a dark page.
    """
    solid = sum(not line.dashed for line in lines)
    found = looks(solid, soft(dark))
    order = iter(found)
    with style(dark=dark):
        figure, (axes,) = new(height)
        for line in lines:
            look = Look(ink(dark), "") if line.dashed else next(order)
            if line.low is not None and line.high is not None and look.named:
                axes.fill_between(
                    line.x, line.low, line.high, color=look.colour, alpha=0.18, linewidth=0
                )
            options = look.options(len(line.x), dashed=line.dashed)
            if line.dots and look.named:
                options["markevery"] = 1  # each point is measured
            axes.plot(line.x, line.y, label=line.name if look.named else None, **options)
        if left := others(found):
            axes.plot([], [], color=soft(dark), linewidth=0.7, label=f"the other {left}")
        _scale(axes, x, "x")
        _scale(axes, y, "y")
        for place, (at, name) in enumerate(marks):
            axes.axvline(at, color=ink(dark), linewidth=0.8, linestyle=":")
            across = axes.get_xaxis_transform()
            height = 0.99 - 0.08 * (place % 2)  # neighbours that are close do not collide
            axes.text(at, height, f" {name}", transform=across, va="top", fontsize=SMALL)
        for at, name in levels:
            axes.axhline(at, color=ink(dark), linewidth=0.8, linestyle=":")
            along = axes.get_yaxis_transform()
            place = 0.01 if named_at == "left" else 0.99
            axes.text(place, at, name, transform=along, va="bottom", ha=named_at, fontsize=SMALL)
        axes.grid(linewidth=0.5)
        axes.set_title(title)
        if len(lines) > 1:
            legend(figure)
    return figure


def _scale(axes: Axes, axis: Axis, which: str) -> None:
    target = axes.xaxis if which == "x" else axes.yaxis
    getattr(axes, f"set_{which}scale")(axis.scale, **axis.options)
    getattr(axes, f"set_{which}label")(axis.label)
    if axis.limits is not None:
        getattr(axes, f"set_{which}lim")(*axis.limits)
    if axis.percent:
        target.set_major_formatter(FuncFormatter(percent))
    if axis.scale == "log":
        low, high = target.get_view_interval()
        subs = (1.0, 2.0, 5.0) if high < 300 * low else (1.0,)
        target.set_major_locator(LogLocator(subs=subs))
        target.set_minor_formatter("")
