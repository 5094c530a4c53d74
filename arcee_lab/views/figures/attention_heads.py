"""Maps of heads: one row per layer, one column per head, the number in its cell."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh

from arcee_lab.errors import SettingError
from arcee_lab.views.figures.figure import WIDTH, Figure, new, sequential, style
from arcee_lab.views.html import number
from arcee_lab.views.scale import colour


def head_map(
    values: np.ndarray,
    layers: Sequence[str],
    *,
    what: str,
    limit: float | None = None,
    title: str = "",
    dark: bool = False,
) -> Figure:
    """Draws one number per head; blank means that there is none.

    Args:
        values: `[layer, head]`, from 0 up.
        layers: What each row is.
        what: What the colours mean.
        limit: The value of the strongest colour; by default the largest there is.
        title: The line above.
        dark: For a dark page.

    Raises:
        ValueError: The labels do not match the values' shape.
    """
    _check(values, layers)
    with style(dark=dark):
        figure, (axes,) = new(_height(len(values)))
        mesh = _draw(axes, values, layers, limit=limit, dark=dark)
        axes.set_ylabel("layer")
        bar = figure.colorbar(mesh, ax=axes, pad=0.02)
        bar.outline.set_visible(False)  # type: ignore[operator]
        bar.set_label(what, fontsize=8)
        axes.set_title(title)
    return figure


def head_maps(
    panels: Mapping[str, np.ndarray],
    layers: Sequence[str],
    *,
    title: str = "",
    dark: bool = False,
) -> Figure:
    """Draws several numbers per head side by side, each with colours of its own.

    Args:
        panels: What is shown -> `[layer, head]`, from 0 up.
        layers: What each row is.
        title: The line above.
        dark: For a dark page.

    Raises:
        ValueError: There is no panel, or the labels do not match the values' shape.
    """
    if not panels:
        raise SettingError("there is nothing to draw; expected one panel or more.")
    for values in panels.values():
        _check(values, layers)
    lines = -(-len(panels) // 4)
    columns = -(-len(panels) // lines)
    with style(dark=dark):
        height = lines * (_height(len(layers)) + 0.1) + 0.3
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        places = figure.subplots(lines, columns, squeeze=False).flatten()
        for axes, (what, values) in zip(places, panels.items(), strict=False):
            mesh = _draw(axes, values, layers, limit=None, dark=dark, most=16 // min(columns, 2))
            axes.set_title(fill(what, 80 // columns), fontsize=8, fontweight="normal")
            if not _few(values):
                bar = figure.colorbar(mesh, ax=axes, pad=0.03, location="bottom")
                bar.outline.set_visible(False)  # type: ignore[operator]
        for axes in places[len(panels) :]:
            axes.remove()
        for axes in places[::columns]:
            axes.set_ylabel("layer")
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


def _check(values: np.ndarray, layers: Sequence[str]) -> None:
    if values.ndim != 2 or len(values) != len(layers):
        raise SettingError(f"values are {values.shape}; expected ({len(layers)} layers, heads).")


def _few(values: np.ndarray) -> bool:
    return max(values.shape) <= 16


def _height(rows: int) -> float:
    return 0.9 + max(rows * (0.3 if rows <= 16 else 0.17), 1.2)


def _draw(
    axes: Axes,
    values: np.ndarray,
    layers: Sequence[str],
    *,
    limit: float | None,
    dark: bool,
    most: int = 16,
) -> QuadMesh:
    """Draws one map, with at most so many numbers of heads below it."""
    rows, heads = values.shape
    finite = values[np.isfinite(values)]
    limit = limit or float(finite.max(initial=0)) or 1.0
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(values),
        cmap=sequential(dark=dark),
        vmin=0,
        vmax=limit,
        rasterized=True,
        edgecolors=axes.get_facecolor(),
        linewidth=1,
    )
    axes.invert_yaxis()
    every = max(1, -(-heads // most))
    axes.set_xticks(np.arange(0, heads, every) + 0.5, [str(h) for h in range(0, heads, every)])
    every = max(1, rows // 16)
    axes.set_yticks(np.arange(0, rows, every) + 0.5, list(layers)[::every])
    axes.tick_params(length=0)
    axes.set_xlabel("head")
    for spine in axes.spines.values():
        spine.set_visible(False)
    if _few(values):
        _write(axes, values, limit, dark=dark)
    return mesh


def _write(axes: Axes, values: np.ndarray, limit: float, *, dark: bool) -> None:
    for row, column in np.ndindex(values.shape):
        value = float(values[row, column])
        if not np.isfinite(value):
            continue
        # On dark paper the scale runs the other way; an end of it has no shade of its own.
        shade = colour(limit - value if dark else value, limit)
        axes.text(
            column + 0.5,
            row + 0.5,
            f"{value:.2f}" if limit < 10 else number(value),
            ha="center",
            va="center",
            fontsize=7.5,
            color=shade.text if shade else "#000000",
        )
