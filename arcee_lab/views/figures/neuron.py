"""One neuron: how large its values are, and next to it the tokens that it raises and lowers."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from arcee_lab.views.figures.figure import Figure, new, style
from arcee_lab.views.html import number
from arcee_lab.views.scale import CATEGORIES

_SHOWN = 18  # characters of a token


def neuron_figure(
    edges: Float[np.ndarray, " edge"],
    counts: Int[np.ndarray, " bin"],
    tokens: Sequence[str] = (),
    effects: Sequence[float] = (),
    *,
    title: str = "",
    dark: bool = False,
) -> Figure:
    """A histogram of values and, where there are any, bars of effects on tokens.

    Args:
        edges: Edges of the bins, one more than bins.
        counts: Windows in each bin.
        tokens: Texts of tokens, from the most raised to the most lowered.
        effects: The effect on each.
        title: The line above.
        dark: For a dark page.
    """
    with style(dark=dark):
        rows = max(len(tokens), 8)
        figure, axes = new(0.9 + 0.17 * rows, columns=2 if tokens else 1)
        sizes = axes[0]
        filled = np.flatnonzero(counts)
        first, stop = (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (0, 0)
        sizes.bar(range(stop - first), counts[first:stop], width=1.0, align="edge")
        every = max(1, -(-(stop - first) // 6))
        places = list(range(0, stop - first + 1, every)) if stop > first else []
        sizes.set_xticks(places, [_edge(edges[first + place]) for place in places])
        if len(filled):
            sizes.set_yscale("log")
        sizes.set_xlabel("largest value in a window, relu(u)²")
        sizes.set_ylabel("windows")
        sizes.set_title(_plain(title))
        if tokens:
            bars = axes[1]
            colours = [CATEGORIES[0] if value >= 0 else CATEGORIES[1] for value in effects]
            bars.barh(range(len(tokens)), effects, color=colours)
            bars.set_yticks(range(len(tokens)), [_plain(repr(token)[1:-1]) for token in tokens])
            bars.invert_yaxis()
            bars.set_xlabel("effect on the logit, per unit of value")
            bars.set_title("Raises and lowers")
    return figure


def _edge(value: float) -> str:
    """An edge, as a power of two if it is one."""
    part, power = math.frexp(value) if math.isfinite(value) else (0.0, 0)
    if part == 0.5 and not 1 <= value < 1024:
        return f"$2^{{{power - 1}}}$"
    return "∞" if math.isinf(value) else number(value)


def _plain(text: str) -> str:
    """A text without mathematics: a dollar sign would start some."""
    short = text if len(text) <= _SHOWN * 3 else f"{text[: _SHOWN * 3]}…"
    return short.replace("$", r"\$")
