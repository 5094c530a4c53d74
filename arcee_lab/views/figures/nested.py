"""Bars inside bars, one group per layer: what is left when a rule takes more and more."""

from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import FuncFormatter

from arcee_lab.views.figures.bands import percent
from arcee_lab.views.figures.figure import Figure, new, sequential, style


def nested_bars(
    shares: Sequence[np.ndarray],
    names: Sequence[str],
    *,
    what: str,
    title: str = "",
    dark: bool = False,
) -> Figure:
    """One bar per layer for each rule, all from 0, the lower ones before the higher.

    Args:
        shares: One `[layer]` per rule, each at most as high as the one before.
        names: What each rule is.
        what: The vertical axis.
        title: The line above.
        dark: For a dark page.
    """
    layers = np.arange(len(shares[0]))
    few = len(layers) <= 16
    with style(dark=dark):
        figure, (axes,) = new(3.0)
        shades = sequential(dark=dark)(np.linspace(0.25, 1.0, len(shares)))
        for share, name, shade in zip(shares, names, shades, strict=True):
            axes.bar(layers, share, width=0.72, color=shade, label=name)
        if few:
            for layer, share in enumerate(shares[0]):
                axes.text(layer, share, percent(float(share)), ha="center", va="bottom", fontsize=8)
        axes.set_xticks(layers if few else layers[:: max(1, len(layers) // 12)])
        axes.set(xlabel="layer", ylabel=what, xlim=(-0.6, len(layers) - 0.4))
        axes.set_ylim(0, 1.12 * max(float(np.max(shares[0])), 1e-6))
        axes.yaxis.set_major_formatter(FuncFormatter(percent))
        axes.grid(axis="y", linewidth=0.5)
        axes.set_title(title)
        figure.legend(loc="outside lower center", ncols=min(3, len(shares)), fontsize=8)
    return figure
