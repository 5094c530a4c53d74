"""Maps of heads: one row per layer, one column per head, the number in its cell."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np

from arcee_lab.errors import SettingError
from arcee_lab.views.arrays import floats
from arcee_lab.views.figures.drawing.cells import (
    LETTER,
    Shades,
    cell_map,
    colour_bar,
    draw,
    label,
    strongest_colour,
    write,
)
from arcee_lab.views.figures.figure import SMALL, WIDTH, Figure, style


def head_map(
    values: np.ndarray,
    layers: Sequence[str],
    *,
    what: str,
    limit: float | None = None,
    title: str = "",
    dark: bool = False,
) -> Figure:
    """Draws one number per head; blank means that there is none.

    Args:
        values: `[layer, head]`, from 0 up.
        layers: What each row is.
        what: What the colours mean.
        limit: The value of the strongest colour; by default the largest there is.
        title: The line above.
        dark: For a dark page.

    Raises:
        ValueError: The labels do not match the values' shape.
    """
    values = floats(values)
    _check(values, layers)
    return cell_map(
        values,
        layers,
        [str(head) for head in range(values.shape[1])],
        Shades(limit=strongest_colour(values, limit)),
        across="head",
        down="layer",
        what=what,
        title=title,
        dark=dark,
    )


def head_maps(
    panels: Mapping[str, np.ndarray],
    layers: Sequence[str],
    *,
    units: Sequence[str] = (),
    title: str = "",
    dark: bool = False,
) -> Figure:
    """Draws several numbers per head, two maps side by side; those of one unit have one scale.

    Args:
        panels: What is shown -> `[layer, head]`, from 0 up.
        layers: What each row is.
        units: Of each panel's numbers, for its colour bar; a panel whose unit is "" has colours of
            its own, as all have if none is given.
        title: The line above.
        dark: For a dark page.

    Raises:
        ValueError: There is no panel, or the labels do not match the values' shape.
    """
    if not panels:
        raise SettingError("there is nothing to draw; expected one panel or more.")
    if units and len(units) != len(panels):
        raise SettingError(f"got {len(units)} units for {len(panels)} panels.")
    found = {what: floats(values) for what, values in panels.items()}
    for values in found.values():
        _check(values, layers)
    columns = min(2, len(found))
    lines = -(-len(found) // columns)
    row = 0.155 if len(layers) <= 40 else 6.0 / len(layers)
    margin = 0.3 + LETTER * max(map(len, layers), default=0)
    wide = (WIDTH - 0.3) / columns - margin
    with style(dark=dark):
        height = 0.4 + lines * (len(layers) * row + 1.75)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        places = list(figure.subplots(lines, columns, squeeze=False).flatten())
        scales = _scales(list(found.values()), units)
        for number, (axes, (what, values)) in enumerate(zip(places, found.items(), strict=False)):
            shades = Shades(limit=scales[number])
            heads = values.shape[1]
            pitch = wide / max(heads, 1)
            mesh = draw(axes, values, shades, gaps=min(row, pitch) > 0.11, dark=dark)
            if pitch > 0.4 and len(layers) <= 16:
                write(axes, values, shades, dark=dark)
            else:
                colour_bar(figure, mesh, [axes], units[number] if units else what, ticks=3)
            label(axes.set_xticks, [str(head) for head in range(heads)], pitch)
            label(axes.set_yticks, layers, row)
            axes.set(xlim=(0, heads), ylim=(len(layers), 0), xlabel="head")
            axes.set_title(fill(what, 62 // columns), fontsize=SMALL, fontweight="normal")
        for axes in places[len(found) :]:
            axes.remove()
        for axes in places[: len(found) : columns]:
            axes.set_ylabel("layer")
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


def _scales(values: Sequence[np.ndarray], units: Sequence[str]) -> list[float]:
    """The value of the strongest colour of each panel: one for all panels of a unit."""
    own = [strongest_colour(one) for one in values]
    names = list(units) or [""] * len(own)
    return [
        max(other for other, same in zip(own, names, strict=True) if same == name) if name else mine
        for mine, name in zip(own, names, strict=True)
    ]


def _check(values: np.ndarray, layers: Sequence[str]) -> None:
    if values.ndim != 2 or len(values) != len(layers):
        raise SettingError(f"values are {values.shape}; expected ({len(layers)} layers, heads).")
