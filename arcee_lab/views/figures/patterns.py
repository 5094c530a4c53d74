"""Attention patterns, one square per head, with the words on both sides."""

from collections.abc import Sequence

import numpy as np

from arcee_lab.errors import SettingError
from arcee_lab.views.arrays import floats
from arcee_lab.views.figures.drawing.cells import (
    LETTER,
    PITCH,
    Shades,
    colour_bar,
    draw,
    label,
)
from arcee_lab.views.figures.figure import WIDTH, Figure, style
from arcee_lab.views.tokens import short

_LEAST = 0.005  # attention below it has no colour


def patterns(
    values: np.ndarray,
    tokens: Sequence[str],
    names: Sequence[str],
    *,
    title: str = "",
    dark: bool = False,
) -> Figure:
    """Draws where each token looks: one row per reading token, one column per token that is read.

    Heads are side by side while every token has room for its word, else one below the other.

    Args:
        values: `[head, q_pos, k_pos]`, rows that sum to 1. Blank means less than 0.005.
        tokens: The text, for rows and columns.
        names: What each head is.
        title: The line above.
        dark: For a dark page.

    Raises:
        ValueError: The labels do not match the values' shape.
    """
    values = floats(values)
    if values.shape != (len(names), len(tokens), len(tokens)):
        raise SettingError(
            f"values are {values.shape}; expected ({len(names)} heads, {len(tokens)}, "
            f"{len(tokens)} tokens)."
        )
    words = [short(token, 12) for token in tokens]
    margin = 0.3 + LETTER * max(map(len, words), default=0)
    columns = max(1, min(len(names), int((WIDTH - 0.1) / (margin + PITCH * len(tokens)))))
    lines = max(1, -(-len(names) // columns))
    side = min((WIDTH - 0.1) / columns - margin, 0.24 * max(len(tokens), 4))
    with style(dark=dark):
        height = lines * (side + margin + 0.3) + 1.0
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        places = list(figure.subplots(lines, columns, squeeze=False).flatten())
        mesh = None
        for axes, name, pattern in zip(places, names, values, strict=False):
            pitch = side / max(len(tokens), 1)
            mesh = draw(axes, pattern, Shades(blank=_LEAST), gaps=pitch > 0.11, dark=dark)
            axes.set_aspect("equal")
            label(axes.set_xticks, words, pitch, rotation=90)
            label(axes.set_yticks, words, pitch)
            axes.set(xlim=(0, len(tokens)), ylim=(len(tokens), 0))
            axes.set_title(name, fontsize=9)
        for axes in places[len(names) :]:
            axes.remove()
        for axes in places[: len(names) : columns]:
            axes.set_ylabel("reads")
        for axes in places[max(0, len(names) - columns) : len(names)]:
            axes.set_xlabel("is read")
        if mesh is not None:
            colour_bar(figure, mesh, places[: len(names)], "attention, blank below 0.005")
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure
