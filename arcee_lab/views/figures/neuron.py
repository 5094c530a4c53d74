"""One neuron: how large its values are, and next to it the tokens that it raises and lowers."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from arcee_lab.views.figures.figure import SMALL, Figure, new, style
from arcee_lab.views.html import number
from arcee_lab.views.scale import DIVERGING, SEQUENTIAL
from arcee_lab.views.tokens import short

_RAISES, _LOWERS = DIVERGING[-3], SEQUENTIAL[2]  # as on the diverging scale
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


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
        rows = max(len(tokens), 10)
        figure, axes = new(1.1 + 0.17 * rows, columns=2 if tokens else 1)
        sizes = axes[0]
        filled = np.flatnonzero(counts)
        first, stop = (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (0, 0)
        bins = range(stop - first)
        sizes.bar(bins, counts[first:stop], width=1.0, align="edge", color=SEQUENTIAL[2])
        every = max(1, -(-(stop - first) // 5))
        places = list(range(0, stop - first + 1, every)) if stop > first else []
        sizes.set_xticks(places, [_edge(edges[first + place]) for place in places], fontsize=SMALL)
        if len(filled):
            sizes.set_yscale("log")
        sizes.set_xlabel("largest value in a window")
        sizes.set_ylabel("windows")
        sizes.set_title("Values, relu(u)²", fontsize=9)
        if tokens:
            bars = axes[1]
            colours = [_RAISES if value >= 0 else _LOWERS for value in effects]
            bars.barh(range(len(tokens)), effects, color=colours)
            bars.set_yticks(
                range(len(tokens)), [short(token, 12) for token in tokens], fontsize=SMALL
            )
            bars.invert_yaxis()
            bars.set_xlabel("effect per unit of value")
            bars.set_title("Logits raised and lowered", fontsize=9)
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


def _edge(value: float) -> str:
    """An edge, as a power of two if it is one."""
    part, power = math.frexp(value) if math.isfinite(value) else (0.0, 0)
    if part == 0.5 and not 1 <= value < 1024:
        return "2" + str(power - 1).translate(_RAISED)
    return "∞" if math.isinf(value) else number(value)
