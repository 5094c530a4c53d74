"""Measured points with their intervals, joined by lines: what is lost against what is kept."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator

from arcee_lab.views.figures.figure import Figure, new, sequential, style
from arcee_lab.views.scale import CATEGORIES

MOST_COLOURS = len(CATEGORIES)


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
        percent: Whether to write 0.05 as 5 %.
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

    Up to six lines get a colour each, in order of the palette. More are layers or steps, which
    have an order: they get the sequential scale, and the legend names the first and the last.

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
    with style(dark=dark):
        figure, (axes,) = new(height)
        ink = axes.xaxis.label.get_color()
        for line, shade in zip(lines, _colours(lines, dark=dark), strict=True):
            shade = ink if line.dashed else shade
            if line.low is not None and line.high is not None:
                axes.fill_between(line.x, line.low, line.high, color=shade, alpha=0.18, linewidth=0)
            axes.plot(
                line.x,
                line.y,
                color=shade,
                label=line.name,
                linestyle="--" if line.dashed else "-",
                linewidth=1.2 if line.dashed else 1.6,
                marker="o" if line.dots and not line.dashed else None,
                markersize=3.2,
            )
        _scale(axes, x, "x")
        _scale(axes, y, "y")
        for at, name in marks:
            axes.axvline(at, color=ink, linewidth=0.8, linestyle=":")
            across = axes.get_xaxis_transform()
            axes.text(at, 0.98, f" {name}", transform=across, va="top", fontsize=8)
        for at, name in levels:
            axes.axhline(at, color=ink, linewidth=0.8, linestyle=":")
            along = axes.get_yaxis_transform()
            place = 0.01 if named_at == "left" else 0.99
            axes.text(place, at, name, transform=along, va="bottom", ha=named_at, fontsize=8)
        axes.grid(linewidth=0.5)
        axes.set_title(title)
        _legend(figure, axes, lines)
    return figure


def percent(value: float, place: object = None) -> str:
    """0.05 as 5 %, with as many digits as small shares need."""
    return f"{100 * value:.3g} %"


def _colours(lines: Sequence[Band], *, dark: bool) -> list[Any]:
    ordered = sum(not line.dashed for line in lines)
    scale = sequential(dark=dark)(np.linspace(0.3, 1.0, ordered))
    shades = iter(CATEGORIES if ordered <= MOST_COLOURS else scale)
    return [None if line.dashed else next(shades) for line in lines]


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


def _legend(figure: Figure, axes: Axes, lines: Sequence[Band]) -> None:
    handles, names = axes.get_legend_handles_labels()
    ordered = [at for at, line in enumerate(lines) if not line.dashed]
    dashed = [at for at, line in enumerate(lines) if line.dashed]
    if len(ordered) > MOST_COLOURS:
        ordered = [ordered[0], ordered[-1]]
    shown = [*ordered, *dashed]
    if len(shown) > 1:
        figure.legend(
            [handles[at] for at in shown],
            [names[at] for at in shown],
            loc="outside lower center",
            ncols=min(len(shown), 4),
            fontsize=8,
        )
