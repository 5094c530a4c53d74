"""The face of a result: one row a fact, and a table in a notebook."""

from abc import ABC, abstractmethod
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 20  # of a frame that a notebook shows


class Result(ABC):
    """What a reducer found; its tensors lie on the CPU.

    Attributes:
        tokens: N, the tokens that were counted.
    """

    tokens: int

    @abstractmethod
    def frame(self) -> "pd.DataFrame":
        """The numbers, one row a fact (pandas)."""

    @property
    @abstractmethod
    def headline(self) -> str:
        """The result in one sentence, with its N."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.headline})"

    def _repr_html_(self) -> str:
        table = self.frame().to_html(index=False, max_rows=MOST_ROWS)
        return f"<p>{escape(self.headline)}</p>{table}"


def table_of(result: Any) -> "pd.DataFrame":
    """The frame of what a reducer gave.

    Raises:
        ValueError: It has none: a reducer of the user's own gave a plain value.
    """
    if not hasattr(result, "frame"):
        raise ValueError(
            f"The result is of the type {type(result).__name__} and has no frame(). Read it by its "
            "site, or have your reducer's finalize give an al.reducers.Result."
        )
    return result.frame()


def unit_columns(shape: tuple[int, ...]) -> dict[str, Any]:
    """Columns that number the units of a site: `unit`, and `head` before it where it has heads."""
    names = ["unit"] if len(shape) == 1 else ["head", "unit"]
    return {name: grid.ravel() for name, grid in zip(names, np.indices(shape), strict=True)}
