"""What an analysis is: a name, a state of tensors, an update per layer, and a result at the end.

The pass runs the model once and shows every layer to every analysis that asked for it. An analysis
keeps what it needs in a `State`, whose tensors add up (`core.state`), so states of two texts, of
two ranks, or of an interrupted and resumed run combine exactly and in any grouping.

A streamed analysis subclasses `Analysis` and is listed in `registry.STREAMED`. One that needs
further forward passes (CETT, CETT-PPL, truncation curves) is a function

    analysis(model, tokenizer, windows, *, batch_size, progress) -> a frozen dataclass, a `Result`

and is listed in `registry.FURTHER`. `measure(..., analyses=["cett"])` calls it after the pass and
puts its result into `report.further["cett"]`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from arcee_lab.results import Result
from arcee_lab.sparsity.core import layer_counts, packed_masks
from arcee_lab.sparsity.core.counts import CoreCounts
from arcee_lab.sparsity.core.state import CountedTokens, Shape, State
from arcee_lab.sparsity.sampled.mlps import Mlp


@dataclass(frozen=True, eq=False)
class LayerBatch:
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
    tokens: CountedTokens

    @cached_property
    def written(self) -> Float[Tensor, "token d_mlp"]:
        """‖n_i‖ = a_i ‖w_i‖, what each neuron adds to the output, in the dtype of a."""
        return self.post * self.norms.to(self.post.dtype)

    @property
    def on_cpu(self) -> bool:
        """Whether `packed` and `firings` may be asked for; see `packed_masks`."""
        return self.post.device.type == "cpu"

    @cached_property
    def packed(self) -> UInt8[np.ndarray, "token byte"]:
        """Which neurons fire, as bits."""
        return packed_masks.pack(self._fires)

    @cached_property
    def firings(self) -> packed_masks.TokenFirings:
        """Which neurons fire, as a list with their values."""
        rows, kind = self._magnitudes, self.post.dtype
        few = max(1, packed_masks.TOGETHER // rows.shape[1])
        companion = np.tile(self.norms.numpy(), (few, 1))
        written = []
        for at in range(0, max(len(rows), 1), few):
            here = slice(at, at + few)
            _, patterns, (norms,) = packed_masks.pick(
                rows[here], self._fires[here], companion[: max(len(rows) - at, 0)]
            )
            a = torch.from_numpy(patterns).view(kind)
            written.append(a.to(torch.promote_types(kind, torch.float32)).numpy() * norms)
        starts = np.concatenate([[0], self.active.numpy().cumsum()])
        return packed_masks.TokenFirings(self._fires, starts, np.concatenate(written))

    @cached_property
    def _fires(self) -> Bool[np.ndarray, "token d_mlp"]:
        return self._magnitudes != 0

    @cached_property
    def _magnitudes(self) -> Int[np.ndarray, "token d_mlp"]:
        return layer_counts.bit_patterns(self.post)


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

    def layer(self, state: State, seen: LayerBatch) -> None:
        """Adds one layer of one batch, in place; nothing in it may read from the device."""
        return

    def batch(
        self,
        state: State,
        tokens: CountedTokens,
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
    def result(self, state: State, counts: CoreCounts) -> Result:
        """The result that the state gives.

        Args:
            state: The state, on the CPU.
            counts: What the core counted, for what an analysis takes from it (rates, N).
        """
