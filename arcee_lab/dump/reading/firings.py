"""When neurons fire: the results of queries of a store by unit."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from arcee_lab.dump.format import sparse
from arcee_lab.dump.format.sparse import SparseRows
from arcee_lab.errors import UnknownName
from arcee_lab.results import Result, counted
from arcee_lab.sites import unit_name

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class Firings(Result):
    """All tokens at which some neurons of a layer fire, neuron by neuron.

    Attributes:
        layer: The layer.
        units: The neurons, in the requested order.
        n_tokens: Tokens in the store; at those that are not listed the neuron is exactly zero.
        offsets: The entries of `units[i]` are those from offsets[i] to offsets[i + 1].
        tokens: Number of each token in the store, ascending for each neuron.
        relu: relu(u) at these tokens, bit for bit as the model computed it.
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
        """From a matrix with one row per unit and one column per token."""
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
        """relu(u)², the neurons' activations, with the rounding of the model's own square."""
        return self.relu.square()

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, unit: int) -> "Firings":
        """The firings of one of the neurons.

        Raises:
            UnknownName: The query did not include this unit.
        """
        if unit not in self.units:
            more = " ..." if len(self.units) > 8 else ""
            raise UnknownName(
                f"unit {unit} is not among these firings; expected one of "
                f"{', '.join(map(str, self.units[:8]))}{more}."
            )
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

    def frame(self) -> "pd.DataFrame":
        """One row per firing: unit, token, relu, value."""
        import pandas as pd

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

    @property
    def headline(self) -> str:
        """Which neurons, how many firings, and at how many tokens."""
        if len(self.units) == 1:
            what = unit_name(self.layer, self.units[0])
        else:
            what = f"layer {self.layer}, {counted(len(self.units), 'unit')}"
        cells = self.n_tokens * len(self.units)
        share = len(self) / cells if cells else 0.0
        return (
            f"{what}: {counted(len(self), 'firing')} at {counted(self.n_tokens, 'token')}, "
            f"{share:.2%}"
        )

    def _ipython_key_completions_(self) -> list[int]:
        return list(self.units)


@dataclass(frozen=True, repr=False)
class TopFirings(Result):
    """The strongest firings of a neuron, with the surrounding text.

    Attributes:
        layer: The layer.
        unit: The neuron.
        n_tokens: Tokens considered: no padding, and first positions only if requested.
        n_fired: Those of them at which it fires.
        tokens: Their numbers in the store, by descending value, ties by number.
        values: relu(u)² at these tokens.
        documents: Document of each.
        positions: Position of each in its window.
        around: For each, the text of the tokens around it within its window; token ids if the store
            was opened without a tokenizer.
        around_values: For each, relu(u)² of the neuron at those tokens.
        places: For each, its index among those tokens.
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
    around_values: tuple[Tensor, ...]  # of different lengths, which jaxtyping cannot express
    places: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.tokens)

    def frame(self) -> "pd.DataFrame":
        """One row per firing: token, document, position, value, its text, and the text around."""
        import pandas as pd

        columns: dict[str, Any] = {
            "token": self.tokens.numpy(),
            "document": self.documents.numpy(),
            "position": self.positions.numpy(),
            "value": self.values.float().numpy(),
            "text": [words[at] for words, at in zip(self.around, self.places, strict=True)],
            "around": ["".join(words) for words in self.around],
        }
        return pd.DataFrame(columns)

    @property
    def headline(self) -> str:
        """Which neuron, how many of its firings, and N."""
        return (
            f"{unit_name(self.layer, self.unit)}: the top {len(self)} of "
            f"{counted(self.n_fired, 'firing')} at N = {counted(self.n_tokens, 'token')}"
        )

    def _repr_html_(self) -> str:
        from arcee_lab.views.html import number, token_strip

        limit = float(self.values[0]) if len(self) else None
        parts = [f"<p>{escape(self.headline)}</p>"]
        for row in range(len(self)):
            where = f"document {int(self.documents[row])}, position {int(self.positions[row])}"
            parts.append(
                f"<p><b>{number(float(self.values[row]))}</b> at {where}</p>"
                + token_strip(
                    self.around[row],
                    self.around_values[row].float().numpy(),
                    limit=limit,
                    legend=row == 0,  # all have one scale
                )
            )
        return "".join(parts)
