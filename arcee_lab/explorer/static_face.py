"""What a notebook shows where the widget does not run: opened only, not trusted, or on the web.

Plain tables with colours of their own on coloured cells, and a picture of all heads as PNG: nothing
that a notebook of unknown origin, or GitHub, would take out.
"""

import base64
import math
from collections.abc import Sequence
from html import escape

import numpy as np
from jaxtyping import UInt8
from matplotlib.patches import Rectangle

from arcee_lab.explorer.ground import Ground
from arcee_lab.explorer.tabs import ablation, attention, text
from arcee_lab.sites import head_name
from arcee_lab.views.figures.drawing.cells import LETTER, PITCH, colour_bar
from arcee_lab.views.figures.figure import SMALL, WIDTH, new, png, sequential, style
from arcee_lab.views.html import heat_table, number
from arcee_lab.views.scale import CATEGORIES, colour
from arcee_lab.views.tokens import short

_ROWS, _TOKENS = 8, 16
_LEAST = 0.3  # inches of a head whose pattern is drawn
_CELL = "padding:2px 8px;text-align:left;border:1px solid rgba(128,128,128,.25)"


def face(ground: Ground, *, text: str, names: Sequence[str]) -> dict[str, str]:
    """The static face, by MIME type.

    Args:
        ground: What the explorer stands on.
        text: The typed text.
        names: The selection; without one, the neurons that write most at the last token are shown.

    Raises:
        TextError: The text is empty.
    """
    shown, picture = _values(ground, text, list(names)), _heads(ground, text)
    encoded = base64.b64encode(picture).decode()
    how = "Run the cell to open the explorer; this is a picture of it."
    return {
        "text/html": (
            f"<p>{escape(how)}</p>{shown}{_next(ground, text, list(names))}"
            f'<p><img alt="Attention of all heads, one square per head" '
            f'src="data:image/png;base64,{encoded}"></p>'
        ),
        "image/png": encoded,
    }


def _values(ground: Ground, typed: str, names: list[str]) -> str:
    """Units down, tokens across."""
    question = text.TAB.questions["text"]
    found = question.answer(ground, text=typed, names=names, at=-1)
    if not names:
        names = [str(row[0]) for row in found.body["strongest"][:_ROWS]]
        found = question.answer(ground, text=typed, names=names, at=-1)
    tokens = found.body["tokens"]
    values = np.frombuffer(found.buffers[0], "<f4").reshape(len(names), len(tokens))
    return heat_table(
        values[:_ROWS, -_TOKENS:],
        found.body["names"][:_ROWS],
        [token.strip() or "␣" for token in tokens[-_TOKENS:]],
        corner="value, by token",
    )


def _next(ground: Ground, typed: str, names: list[str]) -> str:
    """The next token, with and without the selection."""
    question = ablation.TAB.questions["next"]
    rows = question.answer(ground, text=typed, names=names, factor=0.0).body["rows"][:_ROWS]
    head = ["next token", "probability", *(["without the selection"] if names else [])]
    cells = "".join(f'<th style="{_CELL}">{escape(word)}</th>' for word in head)
    body = []
    for token, before, after in rows:
        numbers = [before, after] if names else [before]
        painted = "".join(_painted(value) for value in numbers)
        body.append(f'<tr><th style="{_CELL}">{escape(token)}</th>{painted}</tr>')
    return f'<table style="border-collapse:collapse"><tr>{cells}</tr>{"".join(body)}</table>'


def _painted(share: float) -> str:
    shade = colour(share, 1.0)
    paint = f";background-color:{shade.background};color:{shade.text}" if shade else ""
    return f'<td style="{_CELL}{paint}">{number(share, aligned=True)}</td>'


def _heads(ground: Ground, typed: str) -> bytes:
    """All patterns as one picture: layers down, heads across.

    Of very many heads each has one cell, since a pattern would be a few pixels: the share that its
    last token gives to the token that it looks at most.
    """
    found = attention.TAB.questions["attention"].answer(ground, text=typed)
    layers, heads, length = found.body["shape"]
    weights = np.frombuffer(found.buffers[0], np.uint8).reshape(layers, heads, length, length)
    sharpest, told = _sharpest(weights, [short(token) for token in found.body["tokens"]])
    with style():
        width = min(WIDTH, 0.6 + heads * max(0.28, 0.9 - 0.04 * heads))
        pitch = (width - 0.6) / heads
        figure, (axes,) = new(1.3 + layers * pitch, width=width)
        small = pitch < _LEAST
        shown = weights[:, :, -1].max(axis=-1) if small else _tiled(weights)
        step, middle = (1, 0.0) if small else (length + 1, (length - 1) / 2)
        picture = axes.imshow(shown / 255, cmap=sequential(), vmin=0, vmax=1, aspect="equal")
        frame = {"fill": False, "edgecolor": CATEGORIES[1], "linewidth": 2, "clip_on": False}
        for layer, head in sharpest:
            corner = step * head - 0.5, step * layer - 0.5
            axes.add_patch(Rectangle(corner, max(step - 1, 1), max(step - 1, 1), **frame))
        what = "largest share of the last token's attention" if small else "share of attention"
        axes.set(xlabel="head" if small else "head; within it, the token looked at", ylabel="layer")
        colour_bar(figure, picture, [axes], what)
        for set_ticks, letter, count, need in (
            (axes.set_xticks, "H", heads, 3 * LETTER + 0.05),
            (axes.set_yticks, "L", layers, PITCH),
        ):
            places = range(0, count, math.ceil(need / pitch))
            set_ticks([middle + step * i for i in places], [f"{letter}{i}" for i in places])
        axes.tick_params(length=0, labelsize=SMALL)
        axes.spines[:].set_visible(False)
        axes.set_title(told)
    return png(figure, small=True)


def _sharpest(
    weights: UInt8[np.ndarray, "layer head q_pos k_pos"], tokens: Sequence[str]
) -> tuple[list[tuple[int, int]], str]:
    """The heads that look most at one token from the last one, and that as a sentence.

    Shares come in steps of 1/255, so several heads may have the largest.
    """
    last = weights[:, :, -1]
    most = last.max(axis=-1)
    places = [(int(layer), int(head)) for layer, head in np.argwhere(most == most.max())]
    share = f"{most.max() / 255:.0%}"
    if len(places) == 1:
        (layer, head), key = places[0], int(last[places[0]].argmax())
        told = (
            f"Of {most.size} heads, {head_name(layer, head)} looks most at one token from the last "
            f"one: {share} at “{tokens[key]}”"
        )
    else:
        told = (
            f"{len(places)} of {most.size} heads look most at one token from the last one: {share}"
        )
    return places, f"{told} (framed; one text)"


def _tiled(
    weights: UInt8[np.ndarray, "layer head q_pos k_pos"],
) -> np.ma.MaskedArray:
    """The patterns side by side, one blank line between each two."""
    layers, heads, length, _ = weights.shape
    room = np.zeros((layers, heads, length + 1, length + 1), dtype=np.uint8)
    room[:, :, :length, :length] = weights
    blank = np.ones(room.shape, dtype=bool)
    blank[:, :, :length, :length] = np.triu(np.ones((length, length), dtype=bool), 1)
    side = layers * (length + 1)
    shown = room.transpose(0, 2, 1, 3).reshape(side, -1)[:-1, :-1]
    return np.ma.masked_array(shown, blank.transpose(0, 2, 1, 3).reshape(side, -1)[:-1, :-1])
