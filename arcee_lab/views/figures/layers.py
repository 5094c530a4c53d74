"""One row or bar per layer: bars inside bars, shares against a baseline, rates on a log axis."""

from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import FuncFormatter

from arcee_lab.views.figures.bands import percent
from arcee_lab.views.figures.figure import Figure, new, sequential, style
from arcee_lab.views.scale import CATEGORIES, SEQUENTIAL


def share_bars(
    share: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    *,
    baseline: float,
    baseline_name: str,
    what: str,
    spread: str,
    title: str = "",
    dark: bool = False,
) -> Figure:
    """Bars of a share by layer, a dashed baseline, and the spread as a line on each bar.

    Args:
        share: `[layer]`, between 0 and 1.
        low: `[layer]`, the lower end of the spread.
        high: `[layer]`, its upper end.
        baseline: Where the dashed line is.
        baseline_name: What it means.
        what: The vertical axis.
        spread: What the lines on the bars are.
        title: The line above.
        dark: For a dark page.
    """
    layers = np.arange(len(share))
    few = len(share) <= 16
    with style(dark=dark):
        figure, (axes,) = new(3.0)
        axes.bar(layers, share, width=0.72, color=SEQUENTIAL[2])
        accent = CATEGORIES[1]
        axes.vlines(layers, low, high, color=SEQUENTIAL[4] if not dark else "#ffffff", label=spread)
        axes.axhline(baseline, color=accent, linestyle="--", label=baseline_name)
        if few:
            for layer, value in enumerate(share):
                axes.text(layer, 0.03, f"{value:.1%}", ha="center", color="#000000", fontsize=8)
        axes.set_xticks(layers if few else layers[:: max(1, len(share) // 12)])
        axes.set(xlabel="layer", ylabel=what, ylim=(0, 1), xlim=(-0.6, len(share) - 0.4))
        axes.yaxis.set_major_formatter(FuncFormatter(percent))
        axes.grid(axis="y")
        figure.legend(loc="outside lower center", ncols=2, fontsize=8)
        axes.set_title(title)
    return figure


def rate_ridges(
    rates: Sequence[np.ndarray],
    *,
    floor: float,
    floor_name: str,
    what: str,
    title: str = "",
    dark: bool = False,
) -> Figure:
    """One histogram of rates per layer on a shared log axis; its left end counts rates of 0.

    Args:
        rates: One array per layer, values from 0 to 1.
        floor: The left end, above 0: the smallest rate that could have been seen.
        floor_name: What the left end means.
        what: The horizontal axis.
        title: The line above.
        dark: For a dark page.
    """
    # A hair below the floor, so that rounding cannot push a rate of exactly `floor` out.
    edges = np.logspace(np.log10(floor) - 1e-9, 0, 61)
    counts = [np.histogram(rate[rate > 0], edges)[0] for rate in rates]
    highest = max(count.max() for count in counts) or 1
    with style(dark=dark):
        figure, (axes,) = new(1.1 + (0.42 if len(rates) <= 12 else 0.22) * len(rates))
        for layer, (rate, count) in enumerate(zip(rates, counts, strict=True)):
            share = count / highest
            base = len(rates) - 1 - layer
            axes.stairs(
                base + 0.92 * share, edges, baseline=base, fill=True, color=SEQUENTIAL[2], alpha=0.9
            )
            axes.axhline(base, linewidth=0.6, color=axes.xaxis.label.get_color())
            median = float(np.median(rate))
            if median >= floor:
                axes.plot([median] * 2, [base, base + 0.92], color=CATEGORIES[1], linewidth=1.6)
            zeros = int((rate == 0).sum())
            axes.text(floor * 0.8, base + 0.3, f"{zeros:,}", ha="right", fontsize=8)
        axes.text(floor * 0.8, len(rates) + 0.1, "never", ha="right", fontsize=8)
        axes.plot([], [], color=CATEGORIES[1], label="median neuron")
        axes.set_yticks(
            np.arange(len(rates)) + 0.3, [f"layer {n}" for n in reversed(range(len(rates)))]
        )
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set(xscale="log", xlim=(floor / 3.2, 1), ylim=(0, len(rates) + 0.4))
        axes.xaxis.set_major_formatter(FuncFormatter(percent))
        axes.set_xlabel(f"{what}; {floor_name}")
        axes.grid(axis="x", linewidth=0.5)
        axes.set_title(title)
        axes.legend(loc="upper left", bbox_to_anchor=(0.12, 1.0), fontsize=8)
    return figure


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
