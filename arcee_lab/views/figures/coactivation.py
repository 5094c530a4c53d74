"""Which units fire together: a matrix of pairs, and next to it what a few groups of them hold."""

from collections.abc import Mapping

import numpy as np
from matplotlib.ticker import FuncFormatter

from arcee_lab.views.arrays import floats
from arcee_lab.views.figures.curves import legend, percent
from arcee_lab.views.figures.drawing.cells import Shades, colour_bar, draw
from arcee_lab.views.figures.figure import WIDTH, Figure, ink, style
from arcee_lab.views.scale import CATEGORIES


def together(
    pairs: np.ndarray,
    held: Mapping[str, np.ndarray],
    *,
    cover: float,
    what: str,
    title: str = "",
    dark: bool = False,
) -> Figure:
    """A square of pairs above, and below it one curve per grouping.

    Args:
        pairs: `[unit, unit]`, signed; NaN on the diagonal, which stays blank.
        held: By name, `[group]`: the share that the best 1, 2, ... groups hold. The last is dashed.
        cover: The share that a dotted line marks.
        what: What a pair's number is.
        title: The line above.
        dark: For a dark page.
    """
    pairs = floats(pairs)
    known = np.abs(pairs[np.isfinite(pairs)])
    limit = (float(np.quantile(known, 0.995)) if len(known) else 0.0) or 1.0
    with style(dark=dark):
        figure = Figure(figsize=(WIDTH, 7.2), layout="constrained")
        square, axes = figure.subplots(2, 1, gridspec_kw={"height_ratios": (4.2, 2.2)})
        mesh = draw(square, pairs, Shades("diverging", limit, blank=0.0), gaps=False, dark=dark)
        square.set_aspect("equal")
        square.set(xlabel=f"{len(pairs)} neurons that fire most", xticks=[], yticks=[])
        square.set_ylabel("the same neurons")
        square.set_ylim(len(pairs), 0)
        colour_bar(figure, mesh, [square], f"{what}; blank: a neuron and itself")
        for number, (name, share) in enumerate(held.items()):
            last = number == len(held) - 1
            axes.plot(
                np.arange(1, len(share) + 1),
                share,
                color=ink(dark) if last else CATEGORIES[number],
                linestyle="--" if last else "-",
                marker=None if last else "o",
                markersize=3.2,
                label=name,
            )
        axes.axhline(cover, color=CATEGORIES[1], linewidth=1.2, linestyle=":", label=percent(cover))
        axes.set(xlabel="groups, best first", ylabel="active neurons held", ylim=(0, 1.02))
        axes.yaxis.set_major_formatter(FuncFormatter(percent))
        axes.grid(linewidth=0.5)
        legend(figure, of=1)
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure
