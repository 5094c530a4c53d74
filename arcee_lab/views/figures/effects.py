"""A map of signed effects: what is patched down and across, blank where there is nothing."""

from collections.abc import Sequence

import numpy as np

from arcee_lab.errors import SettingError
from arcee_lab.views.arrays import floats
from arcee_lab.views.figures.drawing.cells import Shades, cell_map, strongest_colour
from arcee_lab.views.figures.figure import WIDTH, Figure

_LETTERS, _LINE = 11, 0.18  # letters of a title per inch, and inches from line to line


def effect_map(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    across: str,
    down: str,
    what: str,
    limit: float | None = None,
    title: str = "",
    dark: bool = False,
) -> Figure:
    """Draws a signed number per cell; a cell without colour has next to no effect, or no number.

    Args:
        values: `[row, column]`.
        rows: What each row is.
        columns: What each column is, words for instance.
        across: What the columns are.
        down: What the rows are.
        what: What the colours mean.
        limit: The value of the strongest colours; by default the largest there is in size.
        title: The line above.
        dark: For a dark page.

    Raises:
        ValueError: The labels do not match the values' shape.
    """
    values = floats(values)
    if values.shape != (len(rows), len(columns)):
        raise SettingError(
            f"values are {values.shape}; expected ({len(rows)} rows, {len(columns)} columns)."
        )
    figure = cell_map(
        values,
        rows,
        columns,
        Shades("diverging", strongest_colour(values, limit)),
        across=across,
        down=down,
        what=what,
        title=title,
        dark=dark,
    )
    lines = len(title) / (_LETTERS * WIDTH)  # a title of two has room in any map
    figure.set_figheight(figure.get_figheight() + _LINE * max(0, round(lines + 0.5) - 2))
    return figure
