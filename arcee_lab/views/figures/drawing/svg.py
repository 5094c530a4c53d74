"""A figure as one small SVG that takes the page's light or dark colours by itself."""

import base64
import io
import re
from collections import Counter
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from PIL import Image

from arcee_lab.views.figures.drawing import palette
from arcee_lab.views.figures.drawing.pixels import reduced

DPI = 150  # of the parts that are drawn as pixels: cells of maps, dense dots
# Text stays text, which is smaller, can be searched, and is sharp; the same figure gives the same
# bytes. Verdana is as wide as DejaVu, for machines that do not have that.
_SETTINGS: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "arcee_lab"}
_NOTHING: dict[Any, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
_UNUSED = re.compile(r"<!--.*?-->|<metadata>.*?</metadata>|<\?xml.*?\?>|<!DOCTYPE.*?>", re.DOTALL)
_GROUP_IDS = re.compile(r'(<g|<g [^>]*?) id="[^"]*"')
_DIGITS = re.compile(r"(\d\.\d{2})\d+")
_TAG = re.compile(r"<[^>]*>")
_BETWEEN = re.compile(r">\s+<")
_SPACES = re.compile(r"\s*\n\s*")
_EMPTY = re.compile(r"<g ?/>")
_GROUP_ENDS = re.compile(r"<g>|<g [^>]*[^/]>|</g>")
_FLAT = re.compile(r' transform="rotate\(-?0 [^)]*\)"')
_STYLE = re.compile(r' style="([^"]*)"')
_PATH = re.compile(r' d="([^"]*)"')
_COMMAND = re.compile(r"([A-Za-z])([^A-Za-z]*)")
_TENTHS = re.compile(r"(\d\.\d)\d+")
_IMAGE = re.compile(r"(?<=data:image/png;base64,)[^\"]+")

_OFTEN = 3  # from which a style is worth a name


def svg(figure: Figure, *, title: str = "") -> str:
    """The figure as SVG text.

    Args:
        figure: What to draw, in the house style.
        title: What it shows, for those who do not see it.
    """
    buffer = io.StringIO()
    with mpl.rc_context(_SETTINGS):
        figure.draw_without_rendering()  # wraps titles; here, a second drawing would be seen
        figure.savefig(buffer, format="svg", dpi=DPI, transparent=True, metadata=_NOTHING)
    text = _IMAGE.sub(_palette, _small(buffer.getvalue()))
    text = text.replace("'DejaVu Sans'", "'DejaVu Sans',Verdana,sans-serif")
    text = palette.variables(_classes(text))
    head, tag, rest = text.partition(">")
    if title:
        head, rest = f'{head} role="img"', f"<title>{escape(title, quote=False)}</title>{rest}"
    return f"{head}{tag}{rest}"


def _small(text: str) -> str:
    """Without comments, data about the file, names of groups, and digits that no eye can see."""
    text = _GROUP_IDS.sub(r"\1", _UNUSED.sub("", text)).replace("base64,\n", "base64,")
    # Digits of places, which are within tags; what the figure says stays as it is.
    text = _TAG.sub(lambda found: _DIGITS.sub(r"\1", found[0]), _FLAT.sub("", text))
    text = _SPACES.sub(" ", _BETWEEN.sub("><", text)).strip()
    text = _PATH.sub(lambda found: f' d="{_short_path(found[1])}"', text)
    return _without_bare_groups(_EMPTY.sub("", text))


def _without_bare_groups(text: str) -> str:
    """Without groups that say nothing: those with neither attributes nor, perhaps, contents."""
    kept: list[bool] = []

    def end(found: re.Match[str]) -> str:
        if found[0] != "</g>":
            kept.append(found[0] != "<g>")
            return found[0] if kept[-1] else ""
        return found[0] if kept.pop() else ""

    return _GROUP_ENDS.sub(end, text)


def _short_path(path: str) -> str:
    """A path in tenths of a point, without the command of a line that goes on."""
    parts, last = [], ""
    for command, numbers in _COMMAND.findall(path):
        told = _TENTHS.sub(r"\1", numbers).replace(".0 ", " ").strip()
        parts.append(f" {told}" if command == last == "L" else f"{command}{told}")
        last = command
    return "".join(parts)


def _palette(found: re.Match[str]) -> str:
    """A PNG in the colours of figures, which takes a third of the bytes."""
    buffer = io.BytesIO()
    picture = Image.open(io.BytesIO(base64.b64decode(found[0])))
    reduced(picture).save(buffer, format="png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _classes(text: str) -> str:
    """With a class in place of each style that comes often, such as that of all tick labels."""
    counts = Counter(_STYLE.findall(text))
    names = {
        style: f"a{place}"
        for place, style in enumerate(style for style, n in counts.items() if n >= _OFTEN)
    }
    text = _STYLE.sub(
        lambda found: f' class="{names[found[1]]}"' if found[1] in names else found[0], text
    )
    rules = "".join(f".{name}{{{style}}}" for style, name in names.items())
    head, tag, rest = text.partition(">")
    return f"{head}{tag}<style>{rules}</style>{rest}" if rules else text
