"""One row per layer: bars with their numbers, bars inside bars, rates on a log axis."""

from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import FuncFormatter

from arcee_lab.views.arrays import floats
from arcee_lab.views.figures.curves import legend, percent
from arcee_lab.views.figures.figure import SMALL, Figure, ink, new, soft, style
from arcee_lab.views.scale import CATEGORIES, SEQUENTIAL, colour

_ROW = 0.2  # inches


def share_bars(
    share: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    *,
    baseline: float,
    baseline_name: str,
    what: str,
    spread: str,
    names: Sequence[str] | None = None,
    across: str = "layer",
    title: str = "",
    dark: bool = False,
) -> Figure:
    """One bar per layer from 0, as long as its share, with the number next to it.

    The axis ends where the longest bar and its spread end, so that small shares can be told apart;
    a baseline beyond it is named without a line. Where bars would all look alike, dots are drawn
    instead, on an axis that begins near the smallest.

    Args:
        share: `[layer]`, between 0 and 1.
        low: `[layer]`, the lower end of the spread.
        high: `[layer]`, its upper end.
        baseline: What the shares are compared with.
        baseline_name: What that is.
        what: The horizontal axis.
        spread: What the lines on the bars are.
        names: What each row is; by default the numbers of layers.
        across: What the rows are.
        title: The line above.
        dark: For a dark page.
    """
    share, low, high = floats(share), floats(low), floats(high)
    rows = np.arange(len(share))
    end = max(float(np.max(high, initial=0)), float(np.max(share, initial=0)), 1e-9)
    near = baseline <= 1.6 * end
    least = float(np.min(np.concatenate([share, low]), initial=end))
    alike = len(share) > 1 and least > 0.5 * end
    with style(dark=dark):
        figure, (axes,) = new(1.15 + _ROW * max(len(share), 3))
        if alike:
            axes.plot(share, rows, "o", color=CATEGORIES[0], markersize=5, zorder=3)
        else:
            axes.barh(rows, share, height=0.72, color=SEQUENTIAL[2])
        told = f"{spread}; the number is the {'dot' if alike else 'bar'}"
        axes.hlines(rows, low, high, color=ink(dark), linewidth=1.2, label=told)
        if near:
            line = {"color": CATEGORIES[1], "linestyle": "--", "linewidth": 1.6}
            axes.axvline(baseline, label=baseline_name, **line)
        else:
            axes.plot([], [], " ", label=f"{baseline_name}: {percent(baseline)}")
        end = max(end, baseline) if near else end
        start = 0.0
        if alike:
            least = min(least, baseline) if near else least
            start = max(0.0, least - 0.1 * max(end - least, 0.02 * end))
        for row, value in enumerate(share):
            place = max(value, high[row]) + 0.015 * (end - start)
            axes.text(place, row, f"{value:.1%}", va="center", fontsize=SMALL)
        axes.set_yticks(rows, names or [str(row) for row in rows], fontsize=SMALL)
        axes.tick_params(axis="y", length=0)
        axes.set(ylabel=across, xlabel=what, ylim=(len(share) - 0.4, -0.6))
        axes.set_xlim(start, start + 1.14 * (end - start))
        axes.xaxis.set_major_formatter(FuncFormatter(percent))
        axes.grid(axis="x")
        axes.set_title(title)
        legend(figure)
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
        figure, (axes,) = new(1.2 + (0.42 if len(rates) <= 12 else _ROW) * len(rates))
        for layer, (rate, count) in enumerate(zip(rates, counts, strict=True)):
            share = count / highest
            base = len(rates) - 1 - layer
            steps = {"fill": True, "color": SEQUENTIAL[2], "rasterized": len(rates) > 12}
            axes.stairs(base + 0.92 * share, edges, baseline=base, **steps)
            axes.axhline(base, linewidth=0.6, color=soft(dark))
            median = float(np.median(rate))
            if median >= floor:
                axes.plot([median] * 2, [base, base + 0.92], color=CATEGORIES[1], linewidth=1.8)
            zeros = int((rate == 0).sum())
            axes.text(floor * 0.8, base + 0.3, f"{zeros:,}", ha="right", fontsize=SMALL)
        axes.text(floor * 0.8, len(rates) + 0.1, "never", ha="right", fontsize=SMALL)
        axes.plot([], [], color=CATEGORIES[1], label="median neuron")
        axes.set_yticks(np.arange(len(rates)) + 0.3, [str(n) for n in reversed(range(len(rates)))])
        axes.tick_params(axis="y", length=0, labelsize=SMALL)
        axes.spines["left"].set_visible(False)
        axes.set(xscale="log", xlim=(floor / 4, 1), ylim=(0, len(rates) + 0.9), ylabel="layer")
        axes.xaxis.set_major_formatter(FuncFormatter(percent))
        axes.set_xlabel(f"{what};\n{floor_name}")
        axes.grid(axis="x", linewidth=0.5)
        axes.set_title(title)
        legend(figure)
    return figure


def nested_bars(
    shares: Sequence[np.ndarray],
    names: Sequence[str],
    *,
    what: str,
    title: str = "",
    dark: bool = False,
) -> Figure:
    """One bar per layer for each rule, all from 0, the shorter ones before the longer.

    The numbers next to a bar are those of the first and of the last rule.

    Args:
        shares: One `[layer]` per rule, each at most as long as the one before.
        names: What each rule is.
        what: The horizontal axis.
        title: The line above.
        dark: For a dark page.
    """
    found = [floats(share) for share in shares]
    rows = np.arange(len(found[0]))
    end = max(float(np.max(found[0], initial=0)), 1e-6)
    with style(dark=dark):
        figure, (axes,) = new(1.5 + _ROW * max(len(rows), 3))
        for at, (share, name) in enumerate(zip(found, names, strict=True)):
            # Later bars are also thinner, so that each is seen whatever its colour.
            height = 0.8 - 0.55 * at / max(len(found) - 1, 1)
            shade = colour((at + 0.2) / (len(found) - 0.8), 1.0)
            axes.barh(rows, share, height=height, color=shade and shade.background, label=name)
        for row in rows:
            first, last = (f"{float(share[row]):.1%}" for share in (found[0], found[-1]))
            axes.text(
                found[0][row] + 0.015 * end,
                float(row),
                f"{first}, {last}",
                va="center",
                fontsize=SMALL,
            )
        axes.set_yticks(rows, [str(row) for row in rows], fontsize=SMALL)
        axes.tick_params(axis="y", length=0)
        both = what if len(found) == 1 else f"{what};\nin numbers: {names[0]}, {names[-1]}"
        axes.set(xlabel=both, ylabel="layer", xlim=(0, 1.3 * end), ylim=(len(rows) - 0.4, -0.6))
        axes.xaxis.set_major_formatter(FuncFormatter(percent))
        axes.grid(axis="x", linewidth=0.5)
        axes.set_title(title)
        legend(figure)
    return figure
