"""The lens as a map: sites down, tokens across, a word in each cell."""

from collections.abc import Mapping, Sequence

import numpy as np

from arcee_lab.errors import SettingError
from arcee_lab.views.arrays import floats
from arcee_lab.views.figures.drawing.cells import Shades, cell_map
from arcee_lab.views.figures.drawing.series import looks, spread
from arcee_lab.views.figures.figure import SMALL, Figure, new, soft, style
from arcee_lab.views.tokens import short

_MOST_COLUMNS = 24  # beyond them a word has no room
_MOST_ROWS = 24  # beyond them rows are left out
_LONGEST = 7  # characters of a word


def lens_map(
    values: np.ndarray,
    words: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    what: str = "probability of the strongest token",
    keep: Sequence[int] = (),
    title: str = "",
    dark: bool = False,
) -> Figure:
    """Draws a share and a word per cell; with many columns the words are left out.

    Of many rows some are shown, at even distances, the first and the last among them, and those to
    keep; the name of the vertical axis then says so.

    Args:
        values: `[row, column]`, shares from 0 to 1.
        words: Likewise, what the cells say.
        rows: What each row is; the first is drawn at the bottom, as a stream rises.
        columns: What each column is.
        what: What the colours mean.
        keep: Rows that are shown in any case, such as those that the title names.
        title: The line above.
        dark: For a dark page.

    Raises:
        ValueError: The labels do not match the values' shape.
    """
    values = floats(values)
    shape = (len(rows), len(columns))
    if values.shape != shape or [len(row) for row in words] != [shape[1]] * shape[0]:
        raise SettingError(f"values are {values.shape}; expected {shape}, and a word for each.")
    few = len(columns) <= _MOST_COLUMNS
    even = spread(len(rows), _MOST_ROWS).tolist() if len(rows) else []
    shown = sorted({*even, *keep})
    part = "site" if len(shown) == len(rows) else f"site ({len(shown)} of {len(rows)})"
    return cell_map(
        values[shown],
        [rows[row] for row in shown],
        [short(column, _LONGEST) for column in columns],
        Shades(),
        across="token",
        down=part,
        what=what,
        texts=[[short(word, _LONGEST) for word in words[row]] for row in shown] if few else None,
        numbers=False,
        upward=True,
        title=title,
        dark=dark,
    )


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
        figure, (axes,) = new(2.9)
        for (name, values), look in zip(lines.items(), looks(len(lines), soft(dark)), strict=True):
            axes.plot(range(len(sites)), values, label=name, **look.options(len(sites)))
        every = max(1, -(-len(sites) // _MOST_COLUMNS))
        axes.set_xticks(
            range(0, len(sites), every), list(sites)[::every], rotation=90, fontsize=SMALL
        )
        axes.set_ylim(bottom=0)
        axes.set(xlabel="site", ylabel="nats per token", title=title)
        axes.grid(axis="y")
        axes.legend()
    return figure
