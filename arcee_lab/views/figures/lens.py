"""The lens as a map: sites down, tokens across, a word in each cell."""

from collections.abc import Mapping, Sequence

import numpy as np

from arcee_lab.errors import SettingError
from arcee_lab.views.figures.figure import WIDTH, Figure, new, sequential, style
from arcee_lab.views.figures.raster import visible
from arcee_lab.views.scale import colour

_MOST_COLUMNS = 24  # beyond them a word has no room
_LONGEST = 9  # characters of a word


def lens_map(
    values: np.ndarray,
    words: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    what: str = "probability of the strongest token",
    title: str = "",
    dark: bool = False,
) -> Figure:
    """Draws a share and a word per cell; with many columns the words are left out.

    Args:
        values: `[row, column]`, shares from 0 to 1.
        words: Likewise, what the cells say.
        rows: What each row is; the first is drawn at the bottom, as a stream rises.
        columns: What each column is.
        what: What the colours mean.
        title: The line above.
        dark: For a dark page.

    Raises:
        ValueError: The labels do not match the values' shape.
    """
    shape = (len(rows), len(columns))
    if values.shape != shape or [len(row) for row in words] != [shape[1]] * shape[0]:
        raise SettingError(f"values are {values.shape}; expected {shape}, and a word for each.")
    few = len(columns) <= _MOST_COLUMNS
    width = max(WIDTH, 1.6 + 0.62 * len(columns)) if few else WIDTH
    with style(dark=dark):
        figure, (axes,) = new(1.3 + 0.2 * len(rows), width=width)
        mesh = axes.pcolormesh(
            np.ma.masked_invalid(values),
            cmap=sequential(dark=dark),
            vmin=0,
            vmax=1,
            rasterized=True,
            edgecolors=axes.get_facecolor() if few else "none",
            linewidth=1 if few else 0,
        )
        every = 1 if few else -(-len(columns) // _MOST_COLUMNS)
        axes.set_xticks(
            np.arange(0, len(columns), every) + 0.5,
            [_short(word) for word in list(columns)[::every]],
            rotation=0 if few else 90,
            fontsize=7,
        )
        axes.set_yticks(np.arange(len(rows)) + 0.5, list(rows), fontsize=7)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        for row, column in np.ndindex(values.shape) if few else ():
            share = float(values[row, column])
            shade = colour(1 - share if dark else share, 1)
            axes.text(
                column + 0.5,
                row + 0.5,
                _short(words[int(row)][int(column)]),
                ha="center",
                va="center",
                fontsize=6.5,
                color=shade.text if shade else "#000000",
            )
        bar = figure.colorbar(mesh, ax=axes, pad=0.02)
        bar.outline.set_visible(False)  # type: ignore[operator]
        bar.set_label(what, fontsize=8)
        axes.set_title(title)
    return figure


def _short(word: str) -> str:
    bare = word.strip(" ")
    return visible(bare if len(bare) <= _LONGEST else bare[: _LONGEST - 1] + "…")


def lens_divergence(
    lines: Mapping[str, Sequence[float]],
    sites: Sequence[str],
    *,
    title: str = "",
    dark: bool = False,
) -> Figure:
    """Draws how far each lens is from the model, by site.

    Args:
        lines: Name of a lens -> its divergence at each site, in nats per token.
        sites: What each place is.
        title: The line above.
        dark: For a dark page.

    Raises:
        ValueError: A line has another length than the sites.
    """
    if not lines or any(len(values) != len(sites) for values in lines.values()):
        raise SettingError(f"expected one number for each of the {len(sites)} sites, per line.")
    with style(dark=dark):
        figure, (axes,) = new(2.8)
        for (name, values), mark in zip(lines.items(), "osDv^", strict=False):
            axes.plot(range(len(sites)), values, marker=mark, markersize=4, label=name)
        every = max(1, -(-len(sites) // _MOST_COLUMNS))
        axes.set_xticks(range(0, len(sites), every), list(sites)[::every], rotation=90, fontsize=7)
        axes.set_ylim(bottom=0)
        axes.set(xlabel="site", ylabel="nats per token", title=title)
        axes.grid(axis="y")
        axes.legend()
    return figure
