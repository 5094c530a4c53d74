"""Which units fire together: a matrix of pairs, and next to it what a few groups of them hold."""

from collections.abc import Mapping

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import FuncFormatter

from arcee_lab.views.figures.bands import percent
from arcee_lab.views.figures.figure import Figure, new, style
from arcee_lab.views.scale import CATEGORIES, DIVERGING


def together(
    pairs: np.ndarray,
    held: Mapping[str, np.ndarray],
    *,
    cover: float,
    what: str,
    title: str = "",
    dark: bool = False,
) -> Figure:
    """A square of pairs on the left, a curve a grouping on the right.

    Args:
        pairs: `[unit, unit]`, signed; NaN stays blank.
        held: By name, `[group]`: the share that the best 1, 2, ... groups hold. The last is dashed.
        cover: The share that a dotted line marks.
        what: What a pair's number is.
        title: The line above.
        dark: For a dark page.
    """
    with style(dark=dark):
        figure, (square, axes) = new(3.4, columns=2)
        limit = float(np.nanquantile(np.abs(pairs), 0.995)) or 1.0
        paper = square.get_facecolor()
        anchors = [*DIVERGING[:2], paper, *DIVERGING[3:]]
        colours = LinearSegmentedColormap.from_list("pairs", anchors)
        shown = np.ma.masked_invalid(pairs)
        image = square.imshow(shown, cmap=colours, vmin=-limit, vmax=limit, interpolation="nearest")
        square.set(xlabel=f"{len(pairs)} neurons that fire most", xticks=[], yticks=[])
        bar = figure.colorbar(image, ax=square, shrink=0.8, location="left", label=what)
        bar.outline.set_visible(False)  # type: ignore[operator]
        ink = axes.xaxis.label.get_color()
        for number, (name, share) in enumerate(held.items()):
            last = number == len(held) - 1
            axes.plot(
                np.arange(1, len(share) + 1),
                share,
                color=ink if last else CATEGORIES[number],
                linestyle="--" if last else "-",
                marker=None if last else "o",
                markersize=3.2,
                label=name,
            )
        axes.axhline(cover, color=ink, linewidth=0.8, linestyle=":")
        axes.set(xlabel="groups, best first", ylabel="share of active neurons held", ylim=(0, 1.02))
        axes.yaxis.set_major_formatter(FuncFormatter(percent))
        axes.grid(linewidth=0.5)
        axes.legend(loc="lower right", fontsize=8)
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold", color=ink)
    return figure
