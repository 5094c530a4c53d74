"""The HTML shapes that notebooks and reports share. Labels and tokens are escaped, always."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from arcee_lab.errors import SettingError
from arcee_lab.views.scale import Kind, colour

Numbers = Sequence[float | int] | np.ndarray

_FONT = "font-family:ui-monospace,Menlo,Consolas,monospace;font-size:13px"
_CELL = "padding:2px 8px;text-align:right;white-space:nowrap;border:1px solid rgba(128,128,128,.25)"
_HEAD = "padding:2px 8px;text-align:left;border:1px solid rgba(128,128,128,.25)"


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
    most: int = 256,
) -> str:
    """Text with each token coloured by a value; hover for the number.

    A token whose value is exactly 0 keeps the page's own colours.

    Args:
        tokens: The tokens, as text.
        values: One number per token.
        kind: `sequential` for values from 0 up, `diverging` for signed ones.
        limit: The value of the strongest colour; by default the largest there is.
        most: Tokens shown before the strip ends with "n more".

    Raises:
        ValueError: Not one value per token.
    """
    if len(tokens) != len(values):
        raise SettingError(f"got {len(tokens)} tokens and {len(values)} values; expected as many.")
    values = np.asarray(values, dtype=float)
    limit = limit or float(np.abs(values).max(initial=0))
    spans = [
        _span(token, f"{place}: {number(value)}", _paint(value, limit, kind))
        for place, (token, value) in enumerate(zip(tokens[:most], values[:most], strict=True))
    ]
    if len(tokens) > most:
        spans.append(f" … {len(tokens) - most:,} more tokens")
    return f'<div style="{_FONT};line-height:1.9;white-space:pre-wrap">{"".join(spans)}</div>'


def heat_table(
    values: Sequence[Numbers] | np.ndarray,
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
        values: `values[row][column]`.
        rows: Row labels.
        columns: Column labels.
        corner: What the row labels are.
        kind: `sequential` for values from 0 up, `diverging` for signed ones.
        limit: The value of the strongest colour; by default the largest there is.
        by_column: Whether each column has a scale of its own, where columns differ in kind.
        most: Rows shown before the table ends with "n more".
    """
    cells = np.asarray(values, dtype=float)
    highest = np.abs(cells).max(axis=0 if by_column else None, initial=0)
    limits = np.broadcast_to(limit or highest, cells.shape[1:])
    head = "".join(f'<th style="{_HEAD}">{escape(label)}</th>' for label in (corner, *columns))
    body = []
    for label, row in zip(rows[:most], cells[:most], strict=True):
        numbers = "".join(
            f'<td style="{_CELL}{_paint(value, full, kind)}">{number(value)}</td>'
            for value, full in zip(row, limits, strict=True)
        )
        body.append(f'<tr><th style="{_HEAD}">{escape(label)}</th>{numbers}</tr>')
    return _table(f"<tr>{head}</tr>{''.join(body)}", len(cells) - most, "rows")


def bar_list(
    labels: Sequence[str], values: Numbers, *, limit: float | None = None, most: int = 200
) -> str:
    """One bar per row, with its number; a plain two-column table where CSS is stripped.

    Args:
        labels: What each bar is.
        values: Lengths, from 0 up.
        limit: The value of a full bar; by default the largest there is.
        most: Bars shown before the list ends with "n more".
    """
    values = np.asarray(values, dtype=float)
    limit = limit or float(values.max(initial=0)) or 1.0
    bar = "display:inline-block;height:10px;background:#2b6cb0"
    body = [
        f'<tr><th style="{_HEAD}">{escape(label)}</th><td style="{_CELL}">{number(value)}</td>'
        f'<td style="{_HEAD};min-width:240px">'
        f'<span style="{bar};width:{100 * min(max(value / limit, 0), 1):.1f}%"></span></td></tr>'
        for label, value in zip(labels[:most], values[:most], strict=True)
    ]
    return _table("".join(body), len(values) - most, "rows")


def key_table(entries: Mapping[str, object]) -> str:
    """A table of names and values."""
    body = "".join(
        f'<tr><th style="{_HEAD}">{escape(name)}</th>'
        f'<td style="{_CELL}">{escape(_shown(value))}</td></tr>'
        for name, value in entries.items()
    )
    return _table(body, 0, "rows")


def _shown(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(value)
    return str(value)


def _table(body: str, left_out: int, what: str) -> str:
    more = f"<p>… {left_out:,} more {what}: see .frame()</p>" if left_out > 0 else ""
    return f'<table style="border-collapse:collapse;{_FONT}">{body}</table>{more}'


def _paint(value: float, limit: float, kind: Kind) -> str:
    shade = colour(value, limit, kind=kind)
    return f";background:{shade.background};color:{shade.text}" if shade else ""


def _span(token: str, title: str, paint: str) -> str:
    shown = token.replace("\n", "↵\n").replace("\t", "⇥")
    style = f"padding:1px 0;border-radius:2px{paint}"
    return f'<span style="{style}" title="{escape(title)}">{escape(shown)}</span>'
