"""Outputs read where styles, scripts and drawings are dropped: on the web, and untrusted.

Pages that show notebooks drop style sheets, scripts, inline SVG, style attributes, ids and data
URIs that are not pixels. What is left has to say the same: a number or a word in each cell, a PNG
for each drawing.
"""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from arcee_lab.views.figures.drawing import palette

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
EACH = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
GONE = {"style", "script", "svg", "link", "meta", "iframe", "object"}  # with what they hold
VOID = {"br", "img", "hr", "link", "meta", "wbr", "input"}


class Stripped(HTMLParser):
    """What is left of HTML: its text, the texts of its cells, and its pictures."""

    def __init__(self, html):
        super().__init__()
        self.text, self.bold, self.rows, self.pictures, self.lost = "", "", [], [], []
        self.coloured = []  # texts of elements whose background says something
        self._open = []  # (tag, where its text began, whether it has a background)
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag in GONE:
            self._open.append((tag, len(self.text), False))
        elif tag == "img":
            pixels = re.match(r"data:image/(png|jpeg)", found.get("src") or "")
            (self.pictures if pixels else self.lost).append(found.get("alt") or "")
        elif tag not in VOID:
            if tag == "tr":
                self.rows.append([])
            self._open.append((tag, len(self.text), "background" in (found.get("style") or "")))

    def handle_endtag(self, tag):
        while self._open:
            name, start, coloured = self._open.pop()
            if name == tag:
                said = self.text[start:].strip()
                if tag in ("td", "th") and self.rows:
                    self.rows[-1].append(said)
                if coloured:
                    row = (
                        self.rows[-1]
                        if self.rows and any(one[0] == "tr" for one in self._open)
                        else []
                    )
                    self.coloured.append(said or " ".join(row))
                if tag in ("p", "div", "td", "th", "tr", "li"):
                    self.text += " "
                return

    def handle_data(self, data):
        if not any(tag in GONE for tag, _, _ in self._open):
            self.text += data
            if any(tag in ("b", "strong") for tag, _, _ in self._open):
                self.bold += data


def bundles(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    return [output.data for cell in cells for output in cell.get("outputs", ()) if "data" in output]


@EACH
def test_stored_html_reads_without_styles(notebook):
    for data in bundles(notebook):
        html = data.get("text/html")
        if html is None:
            continue
        left = Stripped(html)
        assert left.text.strip(), html[:200]
        assert not left.lost, "a picture in pixels too"
        assert all(left.coloured), "a colour alone says nothing where it is dropped"
        heads = [row for row in left.rows if row]
        for row in heads:
            assert any(row), "an empty row"
        assert "display:none" not in html.replace(" ", ""), "both faces would show"


@EACH
def test_stored_drawings_come_with_pixels_for_any_page(notebook):
    for data in bundles(notebook):
        if "image/svg+xml" in data:
            assert "image/png" in data
        if "image/png" in data:
            picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGBA")
            assert picture.getpixel((1, 1))[3] == 0, "paper is a slab on a dark page"
            pixels = np.asarray(picture).astype(int)
            ink = np.abs(pixels[..., :3] - list(bytes.fromhex(palette.LIGHT["ink"][1:])))
            seen = (ink.max(axis=-1) <= 2) & (pixels[..., 3] > 0)
            assert not seen.any(), "ink of light pages vanishes on a dark one"


def test_views_say_their_numbers_without_styles():
    from arcee_lab.views.html import bar_list, heat_table, key_table, token_strip

    table = Stripped(heat_table([[0.25, -3.0]], ["row"], ["a", "b"], kind="diverging"))
    assert table.rows == [["", "a", "b"], ["row", "0.25", "-3"]]
    bars = Stripped(bar_list(["one", "two"], [2.0, 1.0]))
    assert [row[:2] for row in bars.rows] == [["one", "2"], ["two", "1"]]
    assert bars.coloured == ["one 2", "two 1"]
    assert Stripped(key_table({"tokens": 1234})).rows == [["tokens", "1,234"]]

    values = np.array([0.0, 0.2, -1.0, 0.49, 0.5])
    strip = Stripped(
        token_strip([" a", " b", " c", " d", " e"], values, kind="diverging", what="x")
    )
    assert strip.text.endswith(" a b c d e ")
    assert strip.bold == "ce", "those of half the largest or more"
    assert "bold from 0.5 on" in strip.text


def test_results_say_their_tables_without_styles():
    import pandas as pd

    from arcee_lab.results import page

    left = Stripped(page("2 of 3 <b>", pd.DataFrame({"unit": ["L0/N1"], "F1": [0.5]})))
    assert left.rows == [["unit", "F1"], ["L0/N1", "0.5"]]
    assert left.text.strip().startswith("2 of 3 <b>")
