"""Two numbers per group as dots, with the line on which both agree."""

from collections.abc import Sequence

import numpy as np

from arcee_lab.errors import SettingError
from arcee_lab.views.figures.figure import SMALL, Figure, ink, new, soft, style
from arcee_lab.views.scale import CATEGORIES

_MARKS = "osD^vP"
_DENSE = 400  # dots, from which they are drawn as pixels


def scatter(
    x: np.ndarray,
    y: np.ndarray,
    groups: Sequence[str],
    *,
    across: str,
    up: str,
    title: str = "",
    dark: bool = False,
) -> Figure:
    """Draws one dot per pair of values, on axes of one scale; the dashed line is where both agree.

    Args:
        x: `[thing]`.
        y: `[thing]`.
        groups: One name per dot; up to six names have a colour and a mark each.
        across: What x is.
        up: What y is.
        title: The line above.
        dark: For a dark page.

    Raises:
        ValueError: Not as many x, y and groups.
    """
    if x.shape != (len(groups),) or y.shape != x.shape:
        raise SettingError(
            f"x is {x.shape}, y {y.shape}; expected ({len(groups)},), one per group name."
        )
    names = list(dict.fromkeys(groups))
    ends = np.concatenate([x, y])
    ends = ends[np.isfinite(ends)]
    low, high = (float(ends.min()), float(ends.max())) if len(ends) else (0.0, 1.0)
    margin = 0.05 * (high - low or 1.0)
    with style(dark=dark):
        figure, (axes,) = new(4.4)
        line = ink(dark)
        axes.axhline(0, color=line, linewidth=0.5, alpha=0.4)
        axes.axvline(0, color=line, linewidth=0.5, alpha=0.4)
        both = (low - margin, high + margin)
        axes.plot(both, both, linestyle="--", color=line, linewidth=0.8, label="both agree")
        many = len(names) > len(CATEGORIES)
        for place, name in enumerate(names):
            here = np.array([group == name for group in groups])
            axes.scatter(
                x[here],
                y[here],
                s=16,
                marker=_MARKS[place % len(_MARKS)] if not many else "o",
                color=CATEGORIES[0 if many else place],
                rasterized=len(x) > _DENSE,
                edgecolors=soft(dark),  # where dots overlap, and on dark paper
                linewidths=0.4,
                label=None if many else name,
            )
        axes.set(xlabel=across, ylabel=up, xlim=both, ylim=both)
        axes.set_aspect("equal")
        axes.grid(linewidth=0.5)
        figure.legend(loc="outside lower center", fontsize=SMALL, ncols=3)
        axes.set_title(title)
    return figure
