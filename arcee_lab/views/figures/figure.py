"""One look for every matplotlib figure, applied while a figure is drawn and never globally."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter, LogFormatterMathtext
from PIL import Image

from arcee_lab.views.scale import CATEGORIES, DIVERGING, SEQUENTIAL

WIDTH = 6.8  # inches: a full text width; half of it is 3.3

_STYLE: dict[Any, Any] = {
    "figure.dpi": 100,
    "savefig.dpi": 100,
    "font.size": 9,
    "text.parse_math": False,  # names of files, models and domains may hold dollar signs
    "font.family": "DejaVu Sans",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=CATEGORIES),
    "legend.frameon": False,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.08,
}


def _palette(ink: str, soft: str, paper: str, line: str) -> dict[Any, Any]:
    edges = dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), soft)
    inks = ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.labelcolor")
    papers = ("figure.facecolor", "axes.facecolor", "savefig.facecolor")
    return {
        **edges,
        **dict.fromkeys((*inks, "ytick.labelcolor"), ink),
        **dict.fromkeys(papers, paper),
        "grid.color": line,
    }


_LIGHT = _palette("#1a2433", "#5b6778", "#ffffff", "#d8dee8")
_DARK = _palette("#e4e9f1", "#9aa7b8", "#14181f", "#323b49")


class Figure(MatplotlibFigure):
    """A matplotlib figure that shows itself in a notebook, without pyplot and its state."""

    def draw(self, renderer: Any) -> None:
        """Draws; logarithmic axes get labels without mathematics, which is off here."""
        for axes in self.axes:
            for axis in (axes.xaxis, axes.yaxis):
                if isinstance(axis.get_major_formatter(), LogFormatterMathtext):
                    axis.set_major_formatter(_PlainLog(labelOnlyBase=True))
                if isinstance(axis.get_minor_formatter(), LogFormatterMathtext):
                    axis.set_minor_formatter(_PlainLog())
        super().draw(renderer)

    def _repr_png_(self) -> bytes:
        return _with_palette(png(self))


class _PlainLog(LogFormatter):
    """100 and 0.001 in place of powers of ten, at the same ticks."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:,.6g}" if super().__call__(x, pos) else ""


@contextmanager
def style(*, dark: bool = False) -> Iterator[None]:
    """Draws what is inside in the house style; the caller's settings come back afterwards."""
    with mpl.rc_context({**_STYLE, **(_DARK if dark else _LIGHT)}):
        yield


def new(height: float, *, width: float = WIDTH, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """An empty figure with its axes side by side; call it inside `style`.

    Args:
        height: In inches.
        width: In inches.
        columns: How many axes.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def titled(figure: Figure, of: str) -> Figure:
    """Puts what a figure is of before its title, in place.

    Args:
        figure: A figure in the house style, whose titles are on the left.
        of: A name, or "" to leave the figure as it is.
    """
    title = next(filter(None, (axes.get_title(loc="left") for axes in figure.axes)), "")
    for text in figure.findobj(Text) if of and title else ():
        if isinstance(text, Text) and text.get_text() == title:
            text.set_text(f"{of}: {title}")
    return figure


def png(figure: MatplotlibFigure, *, dpi: int = 100, colours: int | None = None) -> bytes:
    """The figure as PNG bytes, the same for the same figure wherever the same versions run.

    Args:
        figure: What to draw.
        dpi: Dots per inch.
        colours: Keep so many colours, at most 256, in a third of the bytes; None keeps all.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    if colours is None:
        return buffer.getvalue()
    from PIL import Image

    small = io.BytesIO()
    Image.open(buffer).convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(
        small, format="png", optimize=True
    )
    return small.getvalue()


def _with_palette(picture: bytes) -> bytes:
    """The picture in 256 colours: a third of the size, so that notebooks stay small."""
    whole = Image.open(io.BytesIO(picture)).convert("RGB")
    palette = whole.quantize(256, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    palette.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def sequential(*, dark: bool = False) -> LinearSegmentedColormap:
    """The sequential scale as a colour map; masked cells stay the paper's colour.

    On dark paper it runs from dark to pale, so that strong always stands out.
    """
    return LinearSegmentedColormap.from_list("arcee", SEQUENTIAL[:: -1 if dark else 1])


def diverging() -> LinearSegmentedColormap:
    """The diverging scale as a colour map; its middle is pale on light and dark paper alike."""
    return LinearSegmentedColormap.from_list("arcee signed", DIVERGING)
