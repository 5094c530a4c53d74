"""What an analysis is: a name, a state of tensors, an update a layer, and a result at the end.

The pass runs the model once and shows every layer to every analysis that asked for it. An analysis
keeps what it needs in a `State`, whose tensors add up:

    other tensors, of integers,   are summed
    names that start with "max_"  take the larger value
    names that start with "kept_" are laid end to end, up to a length that the analysis fixes
    names that start with "drawn_" likewise, but ordered by "drawn_order", the lowest first

so states of two texts, of two ranks, or of a run that was cut in two, combine exactly and in any
grouping. Means of real numbers are held in fixed point for that reason; see `exact`.

A streamed analysis subclasses `Analysis` and stands in `registry.STREAMED`. One that needs further
forwards (CETT, truncation curves, co-activation, a trained probe) is a function

    analysis(model, tokenizer, windows, *, batch_size, progress) -> a frozen dataclass, a `Result`

and stands in `registry.FURTHER`. `measure(..., analyses=["cett"])` calls it after the pass and puts
what it gives into `report.further["cett"]`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from arcee_lab.sparsity.core import layer_counts, packed_masks
from arcee_lab.sparsity.sampled.mlps import Mlp

if TYPE_CHECKING:
    import pandas as pd

    from arcee_lab.sparsity.report.report import SparsityReport
    from arcee_lab.views.figures.figure import Figure

State = dict[str, Tensor]
MOST_ROWS = 20  # of a frame that a notebook shows


@dataclass(frozen=True)
class Shape:
    """What fixes the shapes of a state.

    Attributes:
        layers: MLPs.
        d_model: Width of the residual stream.
        d_mlp: Neurons a layer.
        vocab: Token ids there are.
        longest: Tokens of the longest window.
        tokens: Tokens of all windows together, first positions included.
    """

    layers: int
    d_model: int
    d_mlp: int
    vocab: int
    longest: int
    tokens: int


@dataclass(frozen=True, eq=False)
class Tokens:
    """Which tokens of a batch count: neither padding nor first positions, window after window.

    All of it is known before the forward, so that no device is waited for.

    Attributes:
        places: Where they lie in the flattened batch.
        ids: Their token ids.
        positions: Their positions in their windows, counted from the window's first token, 0.
        numbers: Their numbers in the text as a whole, first positions included in the numbering.
        spans: Of each window, where its counted tokens begin and end in the list.
        slots: Of each window, its number among the windows of the share; -1 where it is in none.
        keys: Of each window, a checksum of its token ids.
        next_ids: The token after each; -1 where the window ends.
        sampled: Of the list, the tokens that a predictor is tried on; see `batches`.
    """

    places: Int[Tensor, " token"]
    ids: np.ndarray
    positions: np.ndarray
    numbers: np.ndarray
    spans: tuple[tuple[int, int], ...]
    slots: tuple[int, ...]
    keys: tuple[int, ...]
    next_ids: np.ndarray
    sampled: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Seen:
    """One layer at the counted tokens of one batch, on the model's device.

    Attributes:
        layer: Its number.
        mlp: Its weights.
        post: a, the activations that flow on to the down projection.
        active: How many neurons fire at each token.
        x: The MLP's input.
        y: The MLP's output.
        before: x of the layer before; None in the first.
        norms: ‖w_i‖ of this layer.
        tokens: Which tokens they are.
    """

    layer: int
    mlp: Mlp
    post: Float[Tensor, "token d_mlp"]
    active: Int[Tensor, " token"]
    x: Float[Tensor, "token d_model"]
    y: Float[Tensor, "token d_model"]
    before: Float[Tensor, "token d_model"] | None
    norms: Float[Tensor, " d_mlp"]
    tokens: Tokens

    @cached_property
    def written(self) -> Float[Tensor, "token d_mlp"]:
        """‖n_i‖ = a_i ‖w_i‖, what each neuron adds to the output, in the dtype of a."""
        return self.post * self.norms.to(self.post.dtype)

    @property
    def on_cpu(self) -> bool:
        """Whether `packed` and `firings` may be asked for; see `bits`."""
        return self.post.device.type == "cpu"

    @cached_property
    def packed(self) -> UInt8[np.ndarray, "token byte"]:
        """Which neurons fire, as bits."""
        return packed_masks.pack(self._fires)

    @cached_property
    def firings(self) -> packed_masks.Firings:
        """Which neurons fire, as a list with their values."""
        rows, kind = self._magnitudes, self.post.dtype
        few = max(1, packed_masks.TOGETHER // rows.shape[1])
        beside = np.tile(self.norms.numpy(), (few, 1))
        written = []
        for at in range(0, max(len(rows), 1), few):
            here = slice(at, at + few)
            _, patterns, (norms,) = packed_masks.pick(
                rows[here], self._fires[here], beside[: max(len(rows) - at, 0)]
            )
            a = torch.from_numpy(patterns).view(kind)
            written.append(a.to(torch.promote_types(kind, torch.float32)).numpy() * norms)
        starts = np.concatenate([[0], self.active.numpy().cumsum()])
        return packed_masks.Firings(self._fires, starts, np.concatenate(written))

    @cached_property
    def _fires(self) -> Bool[np.ndarray, "token d_mlp"]:
        return self._magnitudes != 0

    @cached_property
    def _magnitudes(self) -> Int[np.ndarray, "token d_mlp"]:
        return layer_counts.bit_patterns(self.post)


class Result(ABC):
    """What an analysis found."""

    @abstractmethod
    def frame(self) -> "pd.DataFrame":
        """The numbers, one row a fact (pandas)."""

    @property
    @abstractmethod
    def headline(self) -> str:
        """The result in one sentence, with its N."""

    @abstractmethod
    def figure(self, *, dark: bool = False) -> "Figure":
        """The result as a picture."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.headline})"

    def _repr_html_(self) -> str:
        from arcee_lab.views.html import number

        table = self.frame().to_html(index=False, max_rows=MOST_ROWS, float_format=number)
        return f"<p>{escape(self.headline)}</p>{table}"


class Analysis(ABC):
    """One streamed analysis; it holds no numbers itself, those are in a state.

    Attributes:
        name: How it is asked for.
        title: What it is, in a few words: a heading of the report.
        reading: Two sentences on how to read its figure and what ReLU² makes of it.
        kept: Rows that "kept_" tensors hold at most, by name.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    reading: ClassVar[str]
    kept: ClassVar[dict[str, int]] = {}

    @abstractmethod
    def init(self, shape: Shape, device: torch.device) -> State:
        """The state before any token."""

    def layer(self, state: State, seen: Seen) -> None:
        """Adds one layer of one batch, in place; nothing in it may read from the device."""
        return

    def batch(
        self,
        state: State,
        tokens: Tokens,
        active: Int[Tensor, "token layer"],
        losses: Float[Tensor, " token"] | None,
    ) -> None:
        """Adds one batch after its last layer, in place.

        Args:
            state: The state.
            tokens: Which tokens they are.
            active: How many neurons fire, of every layer.
            losses: Of predicting the next token, in nats, NaN where there is none; None where the
                model has no language-model head or no analysis asked.
        """
        return

    def finished(self, state: State) -> State:
        """The state when the pass is over, on the CPU: "kept_" rows are cut to those filled."""
        return state

    @abstractmethod
    def result(self, state: State, report: "SparsityReport") -> Result:
        """What the state says.

        Args:
            state: The state, on the CPU.
            report: The whole report, for what an analysis takes from the others (rates, N).
        """


def combine(states: Sequence[State]) -> State:
    """The state of several ranks of one run: rows that one rank keeps are 0 in all the others."""
    whole = {name: tensor.clone() for name, tensor in states[0].items()}
    for state in states[1:]:
        for name, tensor in state.items():
            if name.startswith("max_"):
                torch.maximum(whole[name], tensor, out=whole[name])
            else:
                whole[name] += tensor
    return whole


def join(first: State, second: State, kept: dict[str, int]) -> State:
    """The state of two texts one after the other.

    Args:
        first: State of the first text.
        second: State of the second. Tables over positions may be longer in one than in the other.
        kept: Rows that "kept_" and "drawn_" tensors hold at most, by name.
    """
    joined = {}
    if "drawn_order" in first:
        order = torch.cat([first["drawn_order"], second["drawn_order"]]).argsort(stable=True)
        for name in (name for name in first if name.startswith("drawn_")):
            joined[name] = torch.cat([first[name], second[name]])[order[: kept[name]]]
    for name, one in first.items():
        two = second[name]
        if name in joined:
            continue
        if name.startswith("kept_"):
            joined[name] = torch.cat([one, two])[: kept[name]]
            continue
        size = max(len(one), len(two)) if one.dim() else 0
        one, two = _padded(one, size), _padded(two, size)
        joined[name] = torch.maximum(one, two) if name.startswith("max_") else one + two
    return joined


def _padded(x: Tensor, size: int) -> Tensor:
    if not x.dim() or len(x) == size:
        return x
    return torch.cat([x, x.new_zeros(size - len(x), *x.shape[1:])])


def as_json(value: Any) -> Any:
    """NumPy and torch numbers as plain ones, NaN as None: JSON has no other."""
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
