"""Attention patterns, one square per head, with the words on both sides."""

from collections.abc import Sequence

import numpy as np

from arcee_lab.errors import SettingError
from arcee_lab.views.figures.figure import WIDTH, Figure, new, sequential, style
from arcee_lab.views.figures.raster import visible


def patterns(
    values: np.ndarray,
    tokens: Sequence[str],
    names: Sequence[str],
    *,
    title: str = "",
    dark: bool = False,
) -> Figure:
    """Draws where each token looks: one row per reading token, one column per token that is read.

    Args:
        values: `[head, q_pos, k_pos]`, rows that sum to 1. Blank means less than 0.005.
        tokens: The text, for rows and columns.
        names: What each head is.
        title: The line above.
        dark: For a dark page.

    Raises:
        ValueError: The labels do not match the values' shape.
    """
    if values.shape != (len(names), len(tokens), len(tokens)):
        raise SettingError(
            f"values are {values.shape}; expected ({len(names)} heads, {len(tokens)}, "
            f"{len(tokens)} tokens)."
        )
    words = [visible(token) for token in tokens]
    places = np.arange(len(tokens)) + 0.5
    with style(dark=dark):
        side = (WIDTH - 0.8) / len(names)
        figure, all_axes = new(0.85 * side + 1.0, columns=len(names))
        for head, axes in enumerate(all_axes):
            seen = np.ma.masked_less(values[head], 0.005)
            mesh = axes.pcolormesh(
                seen, cmap=sequential(dark=dark), vmin=0, vmax=1, rasterized=True
            )
            axes.invert_yaxis()
            axes.set_aspect("equal")
            size = 7 if len(names) > 2 else 8
            axes.set_xticks(places, words, rotation=90, fontsize=size)
            axes.set_yticks(places, words if head == 0 else [""] * len(words), fontsize=size)
            axes.tick_params(length=0)
            axes.set_title(names[head], fontsize=9)
            if head == len(names) - 1:
                bar = figure.colorbar(mesh, ax=axes, shrink=0.7, pad=0.03)
                bar.outline.set_visible(False)  # type: ignore[operator]
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure
