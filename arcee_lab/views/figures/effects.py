"""A map of signed effects: what is patched down and across, blank where there is nothing."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from arcee_lab.errors import SettingError
from arcee_lab.views.figures.figure import Figure, diverging, new, style
from arcee_lab.views.figures.raster import visible
from arcee_lab.views.html import number
from arcee_lab.views.scale import colour

_MANY = 24  # rows or columns from which cells carry no number


def effect_map(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    across: str,
    down: str,
    what: str,
    limit: float | None = None,
    title: str = "",
    dark: bool = False,
) -> Figure:
    """Draws a signed number per cell; pale is no effect, blank is no number.

    Args:
        values: `[row, column]`.
        rows: What each row is.
        columns: What each column is, words for instance.
        across: What the columns are.
        down: What the rows are.
        what: What the colours mean.
        limit: The value of the strongest colours; by default the largest there is in size.
        title: The line above.
        dark: For a dark page.

    Raises:
        ValueError: The labels do not match the values' shape.
    """
    if values.shape != (len(rows), len(columns)):
        raise SettingError(
            f"values are {values.shape}; expected ({len(rows)} rows, {len(columns)} columns)."
        )
    finite = np.abs(values[np.isfinite(values)])
    limit = limit or float(finite.max(initial=0)) or 1.0
    longest = max((len(visible(c)) for c in columns), default=0)
    upright = longest <= 3 or len(columns) * longest <= 60
    with style(dark=dark):
        few = max(values.shape) <= _MANY
        figure, (axes,) = new(
            1.0 + max(len(rows) * (0.3 if few else 0.09), 1.2) + (0 if upright else 0.07 * longest)
        )
        mesh = axes.pcolormesh(
            np.ma.masked_invalid(values),
            cmap=diverging(),
            vmin=-limit,
            vmax=limit,
            rasterized=True,
            edgecolors=figure.get_facecolor() if few else "none",
            linewidth=1 if few else 0,
        )
        axes.invert_yaxis()
        _label(axes.set_xticks, [visible(c) for c in columns], rotation=0 if upright else 90)
        _label(axes.set_yticks, rows, rotation=0)
        axes.tick_params(length=0)
        axes.set(xlabel=across, ylabel=down)
        for spine in axes.spines.values():
            spine.set_visible(False)
        if few:
            _write(axes, values, limit)
        bar = figure.colorbar(mesh, ax=axes, pad=0.02)
        bar.outline.set_visible(False)  # type: ignore[operator]
        bar.set_label(what, fontsize=8)
        axes.set_title(title)
    return figure


def _label(set_ticks, names: Sequence[str], *, rotation: int) -> None:
    every = max(1, -(-len(names) // _MANY))
    places = np.arange(0, len(names), every) + 0.5
    set_ticks(places, list(names)[::every], rotation=rotation, fontsize=8)


def _write(axes: Axes, values: np.ndarray, limit: float) -> None:
    for row, column in np.ndindex(values.shape):
        value = float(values[row, column])
        if not np.isfinite(value):
            continue
        shade = colour(value, limit, kind="diverging")
        shown = f"{value:.2f}" if limit < 10 else number(value)
        axes.text(
            column + 0.5,
            row + 0.5,
            shown.replace("-0.00", "0.00").replace("-", "−"),
            ha="center",
            va="center",
            fontsize=7.5 if values.shape[1] <= 14 else 6,
            color=shade.text if shade else "#000000",
        )
