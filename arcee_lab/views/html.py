"""The HTML shapes that notebooks and reports share. Labels and tokens are escaped, always.

A coloured cell has a background and a text colour of its own; all else keeps those of the page.
"""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from arcee_lab.errors import SettingError
from arcee_lab.views.arrays import Numbers, floats
from arcee_lab.views.scale import BLANK, Kind, colour
from arcee_lab.views.tokens import shown

_FONT = "font-family:ui-monospace,Menlo,Consolas,monospace;font-size:13px"
# What every cell shares is said once: 720 cells of 36 layers and 20 heads stay below 60 KB.
_TABLE = f'cellpadding="4" style="border-collapse:collapse;text-align:right;{_FONT}"'
_HEAD = "text-align:left"
BOLD = 0.5  # of the strongest colour: a token's value from which it is bold
_BAR = "#5598d4"  # the middle of the sequential scale


def number(value: float | int | np.number, *, aligned: bool = False) -> str:
    """A number as people read it: from 1,000 up whole with thousands marks, else three digits.

    Args:
        value: The number; beyond 10^15 it is written as a power of ten.
        aligned: With three digits after the point below 10 and two above: for a column of scores.
    """
    size = abs(value)
    if 1000 <= size < 1e15:
        return f"{value:,.0f}"
    if aligned and size < 1000:
        return f"{value:.3f}" if size < 10 else f"{value:.2f}"
    return f"{value:.3g}"


def token_strip(
    tokens: Sequence[str],
    values: Numbers,
    *,
    kind: Kind = "sequential",
    limit: float | None = None,
    what: str = "",
    legend: bool = True,
    most: int = 256,
) -> str:
    """Text with each token coloured by a value, and a legend; hover for the number.

    A token whose value is exactly 0 keeps the page's own colours. Large values are bold too, which
    is what is left on pages that drop styles.

    Args:
        tokens: The tokens, as text.
        values: One number per token: a list, an array, or a tensor of any dtype.
        kind: `sequential` for values from 0 up, `diverging` for signed ones.
        limit: The value of the strongest colour; by default the largest there is.
        what: What the values are, for the legend.
        legend: Whether to show the legend; leave it to the first of several strips of one scale.
        most: Tokens shown before the strip ends with "n more".

    Raises:
        ValueError: Not one value per token.
    """
    if len(tokens) != len(values):
        raise SettingError(f"got {len(tokens)} tokens and {len(values)} values; expected as many.")
    found = floats(values)
    limit = limit or _largest(found)
    spans = [
        _span(token, value, place, limit, kind)
        for place, (token, value) in enumerate(zip(tokens[:most], found[:most], strict=True))
    ]
    if len(tokens) > most:
        spans.append(f" … {len(tokens) - most:,} more tokens")
    head = strip_legend(limit, kind=kind, what=what) if legend and len(tokens) else ""
    text = f'<div style="{_FONT};line-height:1.9;white-space:pre-wrap">{"".join(spans)}</div>'
    return f"{head}{text}"


def strip_legend(limit: float, *, kind: Kind = "sequential", what: str = "") -> str:
    """The legend of a strip: numbers on their colours.

    Args:
        limit: The value of the strongest colour.
        kind: Of the scale.
        what: What the values are.
    """
    shares = (0.05, 0.35, 0.65, 1.0) if kind == "sequential" else (-1.0, -0.5, 0.5, 1.0)
    plain = "0" if kind == "sequential" else f"below {number(BLANK * limit)} in size"
    steps = [
        f'<span style="padding:0 6px;border-radius:2px{_paint(share * limit, limit, kind)}">'
        f"{number(share * limit)}</span>"
        for share in (shares if limit > 0 else ())
    ]
    name = f"{escape(what)}: " if what else ""
    return (
        f'<div style="{_FONT};font-size:12px">{name}{" ".join(steps)}'
        f"{', ' if steps else ''}{plain} without a colour"
        f"{f', bold from {number(limit * BOLD)} on' if limit > 0 else ''}</div>"
    )


def heat_table(
    values: Numbers,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    corner: str = "",
    kind: Kind = "sequential",
    limit: float | None = None,
    by_column: bool = False,
    most: int = 200,
) -> str:
    """A table whose cells show their number on its colour.

    Args:
        values: `values[row][column]`: lists, an array, or a tensor of any dtype.
        rows: Row labels.
        columns: Column labels.
        corner: What the row labels are.
        kind: `sequential` for values from 0 up, `diverging` for signed ones.
        limit: The value of the strongest colour; by default the largest there is.
        by_column: Whether each column has a scale of its own, from its lowest number to its
            highest, where columns differ in kind.
        most: Rows shown before the table ends with "n more".

    Raises:
        ValueError: The labels do not match the values' shape.
    """
    cells = floats(values).reshape(len(rows), -1) if len(rows) else np.zeros((0, len(columns)))
    if cells.shape[1] != len(columns):
        raise SettingError(
            f"values are {cells.shape}; expected ({len(rows)} rows, {len(columns)} columns)."
        )
    shares, full = cells, limit or _largest(cells)
    if by_column:
        known = np.where(np.isfinite(cells), cells, np.nan)
        there = np.isfinite(known).any(axis=0)
        low, high = (np.zeros(cells.shape[1]) for _ in range(2))
        low[there] = np.nanmin(known[:, there], axis=0)
        high[there] = np.nanmax(known[:, there], axis=0)
        shares, full = (cells - low) / np.where(high > low, high - low, np.inf), 1.0
    head = "".join(f"<th>{escape(label)}</th>" for label in (corner, *columns))
    body = []
    for label, row, parts in zip(rows[:most], cells[:most], shares[:most], strict=True):
        numbers = "".join(
            f"<td{_style(share, full, kind)}>{number(value)}</td>"
            for value, share in zip(row, parts, strict=True)
        )
        body.append(f'<tr><th style="{_HEAD}">{escape(label)}</th>{numbers}</tr>')
    table = _table(f"<tr>{head}</tr>{''.join(body)}", len(cells) - most, "rows")
    own = "Each column has a scale of its own, from its lowest number to its highest."
    return f'{table}<p style="font-size:12px">{own}</p>' if by_column and len(cells) else table


def bar_list(
    labels: Sequence[str], values: Numbers, *, limit: float | None = None, most: int = 200
) -> str:
    """One bar per row, with its number; a plain two-column table where CSS is stripped.

    Args:
        labels: What each bar is.
        values: Lengths, from 0 up: a list, an array, or a tensor of any dtype.
        limit: The value of a full bar; by default the largest there is.
        most: Bars shown before the list ends with "n more".

    Raises:
        ValueError: Not one value per label.
    """
    found = floats(values)
    if len(labels) != len(found):
        raise SettingError(f"got {len(labels)} labels and {len(found)} values; expected as many.")
    limit = limit or _largest(found) or 1.0
    bar = f"display:inline-block;height:10px;background:{_BAR}"
    body = [
        f'<tr><th style="{_HEAD}">{escape(label)}</th><td>{number(value)}</td>'
        f'<td style="{_HEAD};min-width:120px;width:240px">'
        f'<span style="{bar};width:{_share(value, limit):.1f}%"></span></td></tr>'
        for label, value in zip(labels[:most], found[:most], strict=True)
    ]
    return _table("".join(body), len(found) - most, "rows")


def key_table(entries: Mapping[str, object]) -> str:
    """A table of names and values."""
    body = "".join(
        f'<tr><th style="{_HEAD}">{escape(name)}</th>'
        f'<td style="{_HEAD}">{escape(_shown(value))}</td></tr>'
        for name, value in entries.items()
    )
    return _table(body, 0, "rows")


def _largest(values: np.ndarray) -> float:
    return float(np.abs(values[np.isfinite(values)]).max(initial=0))


def _share(value: float, limit: float) -> float:
    return 100 * min(max(value / limit, 0), 1) if np.isfinite(value) else 0.0


def _shown(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(value)
    return str(value)


def _table(body: str, left_out: int, what: str) -> str:
    more = f"<p>… {left_out:,} more {what}: see .frame()</p>" if left_out > 0 else ""
    return f'<div style="overflow-x:auto"><table {_TABLE}>{body}</table></div>{more}'


def _style(value: float, limit: float, kind: Kind) -> str:
    paint = _paint(value, limit, kind)
    return f' style="{paint[1:]}"' if paint else ""


def _paint(value: float, limit: float, kind: Kind) -> str:
    shade = colour(value, limit, kind=kind)
    return f";background:{shade.background};color:{shade.text}" if shade else ""


def _span(token: str, value: float, place: int, limit: float, kind: Kind) -> str:
    style = f"padding:1px 0;border-radius:2px{_paint(value, limit, kind)}"
    whole = escape(shown(token))
    # The space before a word is not coloured: at the end of a line it would be left behind.
    text = whole.lstrip(" ") or whole
    before = whole[: len(whole) - len(text)]
    if limit > 0 and abs(value) >= BOLD * limit:
        text = f"<b>{text}</b>"
    return f'{before}<span style="{style}" title="{place}: {number(value)}">{text}</span>'
