"""When neurons fire: the answer of a store to a question about units."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from arcee_lab.dump.format import sparse
from arcee_lab.dump.format.sparse import SparseRows
from arcee_lab.errors import SettingError


@dataclass(frozen=True, repr=False)
class Firings:
    """All tokens at which some neurons of a layer fire, neuron by neuron.

    Attributes:
        layer: The layer.
        units: The neurons, as asked for.
        n_tokens: Tokens in the store: those that are not named here are exact zeros.
        offsets: The entries of `units[i]` lie from offsets[i] to offsets[i + 1].
        tokens: Number of each token in the store, rising for each neuron.
        relu: relu(u) there, to the bit as the model computed it.
    """

    layer: int
    units: tuple[int, ...]
    n_tokens: int
    offsets: Int[Tensor, " offset"]
    tokens: Int[Tensor, " fired"]
    relu: Float[Tensor, " fired"]

    @classmethod
    def of(
        cls, layer: int, units: Sequence[int], rows: SparseRows, dtype: torch.dtype
    ) -> "Firings":
        """Of a matrix with a row a unit and a column a token."""
        return cls(
            layer=layer,
            units=tuple(units),
            n_tokens=rows.width,
            offsets=torch.from_numpy(rows.offsets),
            tokens=torch.from_numpy(rows.index.astype(np.int64)),
            relu=sparse.from_bits(rows.values.copy(), dtype),
        )

    @property
    def values(self) -> Float[Tensor, " fired"]:
        """relu(u)², the neurons' activations, by the rounding of the model's own square."""
        return self.relu.square()

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, unit: int) -> "Firings":
        """The same of one of the neurons."""
        if unit not in self.units:
            raise SettingError(f"unit {unit} was not asked for; these were: {self.units[:8]} ...")
        place = self.units.index(unit)
        part = slice(int(self.offsets[place]), int(self.offsets[place + 1]))
        return Firings(
            layer=self.layer,
            units=(unit,),
            n_tokens=self.n_tokens,
            offsets=self.offsets[place : place + 2] - self.offsets[place],
            tokens=self.tokens[part],
            relu=self.relu[part],
        )

    def dense(self) -> Float[Tensor, "token unit"]:
        """relu(u)² with its zeros."""
        whole = self.relu.new_zeros(self.n_tokens, len(self.units))
        whole[self.tokens, self._place()] = self.values
        return whole

    def frame(self) -> pd.DataFrame:
        """One row a firing: unit, token, relu, value."""
        return pd.DataFrame(
            {
                "unit": np.asarray(self.units, dtype=np.int64)[self._place().numpy()],
                "token": self.tokens.numpy(),
                "relu": self.relu.float().numpy(),
                "value": self.values.float().numpy(),
            }
        )

    def _place(self) -> Tensor:
        return torch.repeat_interleave(torch.arange(len(self.units)), self.offsets.diff())

    def __repr__(self) -> str:
        what = f"unit {self.units[0]}" if len(self.units) == 1 else f"{len(self.units)} units"
        cells = self.n_tokens * len(self.units)
        share = len(self) / cells if cells else 0.0
        return (
            f"Firings(layer {self.layer}, {what}: {len(self):,} firings at {self.n_tokens:,} "
            f"tokens, {share:.2%})"
        )

    def _repr_html_(self) -> str:
        table = self.frame().to_html(index=False, max_rows=10, float_format="{:.4g}".format)
        return f"<p>{escape(repr(self))}</p>{table}"


@dataclass(frozen=True, repr=False)
class TopFirings:
    """Where a neuron fires the most, with the text around.

    Attributes:
        layer: The layer.
        unit: The neuron.
        n_tokens: Tokens that were looked at: neither padding nor, unless asked for, first ones.
        n_fired: Those of them at which it fires.
        tokens: Their numbers in the store, by falling value, at a tie by number.
        values: relu(u)² there.
        documents: The document of each.
        positions: The place of each in its window.
        around: For each, the text of the tokens around it within its window; ids as text where the
            store was opened without a tokenizer.
        around_values: For each, relu(u)² of the neuron at those tokens.
        places: For each, which of those tokens it is.
    """

    layer: int
    unit: int
    n_tokens: int
    n_fired: int
    tokens: Int[Tensor, " top"]
    values: Float[Tensor, " top"]
    documents: Int[Tensor, " top"]
    positions: Int[Tensor, " top"]
    around: tuple[tuple[str, ...], ...]
    around_values: tuple[Tensor, ...]  # of unlike lengths, which one axis word cannot say
    places: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.tokens)

    def frame(self) -> pd.DataFrame:
        """One row a firing: token, document, position, value, the token's text, and text around."""
        columns: dict[str, Any] = {
            "token": self.tokens.numpy(),
            "document": self.documents.numpy(),
            "position": self.positions.numpy(),
            "value": self.values.float().numpy(),
            "text": [words[at] for words, at in zip(self.around, self.places, strict=True)],
            "around": ["".join(words) for words in self.around],
        }
        return pd.DataFrame(columns)

    def __repr__(self) -> str:
        return (
            f"TopFirings(layer {self.layer}, unit {self.unit}: the top {len(self)} of "
            f"{self.n_fired:,} firings at N = {self.n_tokens:,} tokens)"
        )

    def _repr_html_(self) -> str:
        from arcee_lab.views.html import number, token_strip

        limit = float(self.values[0]) if len(self) else None
        parts = [f"<p>{escape(repr(self))}</p>"]
        for row in range(len(self)):
            where = f"document {int(self.documents[row])}, position {int(self.positions[row])}"
            parts.append(
                f"<p><b>{number(float(self.values[row]))}</b> at {where}</p>"
                + token_strip(
                    self.around[row], self.around_values[row].float().numpy(), limit=limit
                )
            )
        return "".join(parts)
