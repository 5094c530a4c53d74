"""The base class of all results: one sentence, one table, one figure."""

from abc import ABC, abstractmethod
from html import escape
from typing import TYPE_CHECKING

from arcee_lab.errors import UnknownName

if TYPE_CHECKING:
    import pandas as pd

    from arcee_lab.views.figures.figure import Figure

MOST_ROWS = 20  # of a frame that a notebook shows


class Result(ABC):
    """What a call found.

    Subclasses are frozen dataclasses (or read-only mappings) that give `headline` and `frame`, and
    `figure` where a picture says more than the table. `repr` and the view in a notebook follow.
    """

    @property
    @abstractmethod
    def headline(self) -> str:
        """The result in one sentence, with its N."""

    @abstractmethod
    def frame(self) -> "pd.DataFrame":
        """The numbers as a pandas table, one row per fact."""

    def figure(self, *, dark: bool = False) -> "Figure":
        """The result as a picture.

        Args:
            dark: For a dark page.

        Raises:
            UnknownName: This result has no picture.
        """
        raise UnknownName(f"A {type(self).__name__} has no figure; read its .frame() instead.")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.headline})"

    def _repr_html_(self) -> str:
        return page(self.headline, self.frame())


def page(headline: str, frame: "pd.DataFrame", *, most: int = MOST_ROWS) -> str:
    """A headline above the first rows of a table, as HTML without styles of its own.

    It reads in light and dark themes, in untrusted notebooks and on GitHub, because the page around
    it colours it. All text is escaped.

    Args:
        headline: A sentence.
        frame: Its rows.
        most: So many of them are shown.
    """
    import pandas as pd

    from arcee_lab.views.html import number

    with pd.option_context("display.max_colwidth", None):  # names of sites are longer than 50
        table = frame.to_html(
            index=False,
            max_rows=most,
            border=0,
            float_format=number,
            # Other whole numbers are mostly names: of layers, units, documents.
            formatters={"bytes": "{:,}".format} if "bytes" in frame else None,
        )
    return f"<p>{escape(headline)}</p>{table}"


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """A count with its noun: "1 shard", "2 shards", "3 forward passes".

    Args:
        n: How many.
        noun: What, for one of them.
        plural: For any other number; by default the noun with an s.
    """
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"
