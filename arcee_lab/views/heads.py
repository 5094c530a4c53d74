"""A map of heads: one row a layer, one column a head, the number in its cell."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from arcee_lab.views.figure import Figure, new, sequential, style
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
    """Draws a number a head; blank means that there is none.

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
    if values.ndim != 2 or len(values) != len(layers):
        raise ValueError(f"values are {values.shape}; expected ({len(layers)} layers, heads)")
    rows, heads = values.shape
    finite = values[np.isfinite(values)]
    limit = limit or float(finite.max(initial=0)) or 1.0
    few = rows <= 16 and heads <= 16
    with style(dark=dark):
        figure, (axes,) = new(0.9 + max(rows * (0.3 if few else 0.17), 1.2))
        mesh = axes.pcolormesh(
            np.ma.masked_invalid(values),
            cmap=sequential(dark=dark),
            vmin=0,
            vmax=limit,
            rasterized=True,
            edgecolors=figure.get_facecolor(),
            linewidth=1,
        )
        axes.invert_yaxis()
        every = max(1, heads // 16)
        axes.set_xticks(np.arange(0, heads, every) + 0.5, [str(h) for h in range(0, heads, every)])
        every = max(1, rows // 16)
        axes.set_yticks(np.arange(0, rows, every) + 0.5, list(layers)[::every])
        axes.tick_params(length=0)
        axes.set(xlabel="head", ylabel="layer")
        for spine in axes.spines.values():
            spine.set_visible(False)
        if few:
            _write(axes, values, limit, dark=dark)
        bar = figure.colorbar(mesh, ax=axes, pad=0.02)
        bar.outline.set_visible(False)  # type: ignore[operator]
        bar.set_label(what, fontsize=8)
        axes.set_title(title)
    return figure


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
