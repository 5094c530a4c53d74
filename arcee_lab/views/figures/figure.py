"""One look for every matplotlib figure, applied while a figure is drawn and never globally."""

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter, LogFormatterMathtext
from PIL import Image

from arcee_lab.views.figures.drawing import palette, titles
from arcee_lab.views.figures.drawing.pixels import on_any_page, reduced
from arcee_lab.views.figures.drawing.svg import svg
from arcee_lab.views.scale import CATEGORIES, DIVERGING, DIVERGING_PLACES, PLACES, SEQUENTIAL

WIDTH = 5.0  # inches: 480 pixels, so that a phone shows it at three quarters of its size
SMALL = 8.5  # points: no text of a figure is smaller
MOST_BYTES = 60_000  # of a figure as SVG; a larger one is shown as PNG

_TRIES = 4  # to lay a figure out

_STYLE: dict[Any, Any] = {
    "figure.dpi": 100,
    "savefig.dpi": 100,
    "font.size": 9.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": SMALL,
    "text.parse_math": False,  # names of files, models and domains may hold dollar signs
    "font.family": "DejaVu Sans",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=CATEGORIES),
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "figure.constrained_layout.w_pad": 0.06,
    "figure.constrained_layout.h_pad": 0.06,
}


class Figure(MatplotlibFigure):
    """A matplotlib figure that shows itself in a notebook, without pyplot and its state.

    A notebook gets it as SVG, which takes the light or dark colours of JupyterLab, and as PNG that
    reads on both for where SVG is not shown: in notebooks that are not trusted, and on the web.
    """

    def draw(self, renderer: Any) -> None:
        """Draws; logarithmic axes get labels without mathematics, long titles several lines."""
        for axes in self.axes:
            for axis in (axes.xaxis, axes.yaxis):
                if isinstance(axis.get_major_formatter(), LogFormatterMathtext):
                    axis.set_major_formatter(_PlainLog(labelOnlyBase=True))
                if isinstance(axis.get_minor_formatter(), LogFormatterMathtext):
                    axis.set_minor_formatter(_PlainLog())
        engine = self.get_layout_engine()
        if isinstance(engine, ConstrainedLayoutEngine):
            titles.prepare(self)
            for _ in range(_TRIES):  # a longer title moves axes, which may shorten others
                engine.execute(self)
                if not titles.wrap(self, renderer):
                    break
        super().draw(renderer)

    @property
    def title(self) -> str:
        """Its title: what it shows, in one sentence."""
        found = (axes.get_title(loc="left") for axes in self.axes)
        return self.get_suptitle() or next(filter(None, found), "")

    def __repr__(self) -> str:
        return f"Figure({' '.join(self.title.split())})"

    def _repr_png_(self) -> bytes:
        return png(self, small=True)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        drawn = svg(self, title=self.title)
        bundle = {"text/plain": repr(self)}
        bundle["image/png"] = base64.b64encode(self._repr_png_()).decode()
        if len(drawn) <= MOST_BYTES:
            bundle["image/svg+xml"] = drawn
        return bundle


class _PlainLog(LogFormatter):
    """100 and 0.001 in place of powers of ten, at the same ticks."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:,.6g}" if super().__call__(x, pos) else ""


@contextmanager
def style(*, dark: bool = False) -> Iterator[None]:
    """Draws what is inside in the house style; the caller's settings come back afterwards."""
    with mpl.rc_context({**_STYLE, **palette.settings(dark=dark)}):
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


def ink(dark: bool = False) -> str:
    """The colour of text, which is a variable of the page in SVG."""
    return (palette.DARK if dark else palette.LIGHT)["ink"]


def soft(dark: bool = False) -> str:
    """The colour of axes and of what stays in the background."""
    return (palette.DARK if dark else palette.LIGHT)["soft"]


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


def png(figure: MatplotlibFigure, *, dpi: int = 100, small: bool = False) -> bytes:
    """The figure as PNG bytes, the same for the same figure wherever the same versions run.

    Args:
        figure: What to draw.
        dpi: Dots per inch.
        small: For a page of any colour: on transparent paper, with the colours of the house style
            alone, in a third of the bytes.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None}, transparent=small)
    if not small:
        return buffer.getvalue()
    few = io.BytesIO()
    reduced(on_any_page(Image.open(buffer))).save(few, format="png", optimize=True)
    return few.getvalue()


def sequential() -> LinearSegmentedColormap:
    """The sequential scale as a colour map; masked cells have no colour."""
    return _map("arcee", PLACES, SEQUENTIAL)


def diverging() -> LinearSegmentedColormap:
    """The diverging scale as a colour map; masked cells have no colour."""
    return _map("arcee signed", DIVERGING_PLACES, DIVERGING)


def _map(name: str, places: tuple[float, ...], colours: tuple[str, ...]) -> LinearSegmentedColormap:
    anchors = list(zip(places, colours, strict=True))
    return LinearSegmentedColormap.from_list(name, anchors, N=512)
