"""What the results of all reducers have, and the columns of their tables."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from arcee_lab.errors import SettingError
from arcee_lab.results import Result

if TYPE_CHECKING:
    import pandas as pd


class ReducerResult(Result):
    """What a reducer found; its tensors are on the CPU.

    Attributes:
        tokens: N, the tokens that were counted.
    """

    tokens: int

    @property
    def facts(self) -> Mapping[str, str]:
        """A few numbers of all units together, by name, for a table with a row per site."""
        return {}


def table_of(result: Any) -> "pd.DataFrame":
    """The frame of what a reducer gave.

    Raises:
        ValueError: It has none: a reducer of the user's own gave a plain value.
    """
    if not hasattr(result, "frame"):
        raise SettingError(
            f"The result is of the type {type(result).__name__} and has no frame(). Read it by its "
            "site, or have your reducer's finalize give an al.reducers.ReducerResult."
        )
    return result.frame()


def unit_columns(shape: tuple[int, ...]) -> dict[str, Any]:
    """Columns that number the units of a site: `unit`, and `head` before it where it has heads."""
    names = ["unit"] if len(shape) == 1 else ["head", "unit"]
    return {name: grid.ravel() for name, grid in zip(names, np.indices(shape), strict=True)}
