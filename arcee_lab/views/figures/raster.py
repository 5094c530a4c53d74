"""Which unit fires at which token: a raster with the words below."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from arcee_lab.errors import SettingError
from arcee_lab.views.figures.figure import Figure, new, sequential, style
from arcee_lab.views.scale import CATEGORIES


def raster(
    values: np.ndarray,
    tokens: Sequence[str],
    rows: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    notes: Sequence[str] | None = None,
    marks: Sequence[str | None] | None = None,
    title: str = "",
    dark: bool = False,
) -> Figure:
    """Draws one row per unit and one column per token. Blank means exactly zero.

    Each row is scaled by its own largest value: dark is that unit's strongest response here.

    Args:
        values: `[row, pos]`, from 0 up.
        tokens: The text below the columns.
        rows: What each row is.
        groups: One name per row; rows of one name stand together and a line parts the groups.
        notes: Text to the right of each row, such as its firing rate.
        marks: A category per token, or None; marked tokens carry its colour and a legend names it.
        title: The line above.
        dark: For a dark page.

    Raises:
        ValueError: The labels do not match the values' shape.
    """
    if values.shape != (len(rows), len(tokens)):
        raise SettingError(
            f"values are {values.shape}; expected ({len(rows)} rows, {len(tokens)} tokens)."
        )
    peak = values.max(axis=1, keepdims=True, initial=0)
    share = np.divide(values, peak, out=np.zeros(values.shape), where=peak > 0)
    with style(dark=dark):
        longest = max(map(len, tokens), default=0)
        height = 0.5 + 0.17 * len(rows) + 0.075 * min(longest, 14)
        if marks is not None:
            height += 0.3 + 0.2 * (len(set(marks) - {None}) // 4 + 1)
        figure, (axes,) = new(height)
        cells = np.ma.masked_equal(share, 0)
        # The square root spreads the small values of a squared activation.
        axes.pcolormesh(
            np.ma.sqrt(cells), cmap=sequential(dark=dark), vmin=0, vmax=1, rasterized=True
        )
        axes.invert_yaxis()
        axes.set_xticks(np.arange(len(tokens)) + 0.5, [visible(token) for token in tokens])
        axes.tick_params(axis="x", rotation=90, length=0)
        axes.set_yticks(np.arange(len(rows)) + 0.5, rows, fontsize=8)
        axes.tick_params(axis="y", length=0)
        axes.set_xticks(np.arange(len(tokens) + 1), minor=True)
        axes.grid(which="minor", axis="x", linewidth=0.5)
        axes.tick_params(which="minor", length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        if groups is not None and len(set(groups)) < len(rows):
            _part(axes, groups)
        for row, note in enumerate(notes or ()):
            axes.text(len(tokens) + 0.2, row + 0.5, note, va="center", fontsize=7.5)
        if marks is not None:
            _mark(figure, axes, marks)
        axes.set_title(title)
    return figure


def _part(axes: Axes, groups: Sequence[str]) -> None:
    colour = axes.yaxis.label.get_color()
    for row in range(1, len(groups)):
        if groups[row] != groups[row - 1]:
            axes.axhline(row, color=colour, linewidth=0.8)


def _mark(figure: Figure, axes: Axes, marks: Sequence[str | None]) -> None:
    names = list(dict.fromkeys(mark for mark in marks if mark is not None))
    colours = {name: CATEGORIES[place % len(CATEGORIES)] for place, name in enumerate(names)}
    for label, mark in zip(axes.get_xticklabels(), marks, strict=True):
        if mark is not None:
            label.set_color(colours[mark])
            label.set_fontweight("bold")
    patches = [Patch(color=colour, label=name) for name, colour in colours.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=4, fontsize=8)


def visible(token: str) -> str:
    """A token as a short label that shows its white space."""
    # A dollar sign would start matplotlib's mathematics.
    shown = token.strip(" ").replace("\n", "↵").replace("\t", "⇥")
    return (shown[:13] + "…" if len(shown) > 14 else shown) or "␣"
