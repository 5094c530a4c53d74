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

from arcee_lab.explorer.ground import Ground
from arcee_lab.explorer.tabs import ablation, attention, text
from arcee_lab.sites import head_name
from arcee_lab.views.figures.drawing.cells import LETTER, PITCH
from arcee_lab.views.figures.figure import SMALL, WIDTH, new, png, sequential, style
from arcee_lab.views.html import heat_table, number
from arcee_lab.views.scale import colour
from arcee_lab.views.tokens import short

_ROWS, _TOKENS = 8, 16
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
        corner="value at",
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
    """All patterns as one picture: layers down, heads across."""
    found = attention.TAB.questions["attention"].answer(ground, text=typed)
    layers, heads, length = found.body["shape"]
    weights = np.frombuffer(found.buffers[0], np.uint8).reshape(layers, heads, length, length)
    with style():
        width = min(WIDTH, 0.6 + heads * max(0.28, 0.9 - 0.04 * heads))
        pitch = (width - 0.6) / heads
        figure, (axes,) = new(0.7 + layers * pitch, width=width)
        axes.imshow(_tiled(weights), cmap=sequential(), vmin=0, vmax=255, aspect="equal")
        step, middle = length + 1, (length - 1) / 2
        for set_ticks, letter, count, need in (
            (axes.set_xticks, "H", heads, 3 * LETTER + 0.05),
            (axes.set_yticks, "L", layers, PITCH),
        ):
            shown = range(0, count, math.ceil(need / pitch))
            set_ticks([middle + step * i for i in shown], [f"{letter}{i}" for i in shown])
        axes.tick_params(length=0, labelsize=SMALL)
        axes.spines[:].set_visible(False)
        axes.set_title(_sharpest(weights, found.body["tokens"]))
    return png(figure, small=True)


def _sharpest(weights: UInt8[np.ndarray, "layer head q_pos k_pos"], tokens: Sequence[str]) -> str:
    """The head that looks most at one token, from the last one."""
    last = weights[:, :, -1]
    layer, head, key = np.unravel_index(int(last.argmax()), last.shape)
    return (
        f"From the last token, {head_name(int(layer), int(head))} looks most at one token: "
        f"{last[layer, head, key] / 255:.0%} at “{short(tokens[int(key)])}”"
    )


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
