"""Concatenates documents into rows of one length, as other programs expect them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from arcee_lab.dump.format.token_table import TokenTable
from arcee_lab.errors import SettingError


@dataclass(frozen=True)
class PackedRows:
    """Which tokens of a store fill which row; all rows are full.

    Attributes:
        tokens: Number of each token in the store.
        n_left_out: Tokens at the end that fill no row.
    """

    tokens: Int[np.ndarray, "row pos"]
    n_left_out: int

    def n_spanning(self, windows: Int[np.ndarray, " token"], length: int) -> int:
        """How many pieces of a row hold tokens of more than one window.

        A token has not read what precedes it in such a piece beyond its own window.

        Args:
            windows: The window of each token of the store.
            length: Tokens per piece; it divides the length of a row.
        """
        pieces = windows[self.tokens].reshape(-1, length)
        return int((pieces != pieces[:, :1]).any(axis=1).sum())


def pack(known: TokenTable, context: int) -> PackedRows:
    """Puts all tokens of a store, without padding, one after the other into rows.

    Args:
        known: The token columns of the store.
        context: Tokens per row.

    Raises:
        SettingError: A row takes more tokens than there are, or fewer than one.
    """
    if context < 1:
        raise SettingError(f"context is {context}; expected at least 1 token per row.")
    real = known.attended.numpy().nonzero()[0]
    if len(real) < context:
        raise SettingError(
            f"context is {context}, but the store has {len(real)} tokens; expected enough for "
            "one row. Choose a shorter context=, or dump more text."
        )
    n_rows = len(real) // context
    return PackedRows(
        tokens=real[: n_rows * context].reshape(n_rows, context),
        n_left_out=len(real) - n_rows * context,
    )
