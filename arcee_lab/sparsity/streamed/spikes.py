"""Row 12: the largest values, and how much of an MLP's output one neuron holds.

    top share = max_i ‖n_i‖ / ‖y‖       n_i = a_i w_i, y = Σ n_i; above 1 where others cancel it

The largest value of a, and tokens with a > 65504 (relu(u) > 255.9: what float16 cannot hold), are
in the core, at every token. The 99.9th percentile is in `layers`.

Source: "Bug or Feature²", arXiv:2605.17659 (ReLU² amplifies spikes).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from arcee_lab.results import Result
from arcee_lab.sparsity.core import window_means
from arcee_lab.sparsity.core.counts import CoreCounts
from arcee_lab.sparsity.core.state import Shape, State
from arcee_lab.sparsity.core.window_means import Mean
from arcee_lab.sparsity.streamed.analysis import Analysis, LayerBatch

if TYPE_CHECKING:
    import pandas as pd

    from arcee_lab.views.figures.figure import Figure

MOST = 1024.0  # a share above this counts as this: y may cancel to nothing


@dataclass(frozen=True, repr=False)
class SpikesResult(Result):
    """The largest values by layer.

    Attributes:
        largest: Of a, over all N tokens.
        overflow: The tokens, of N, at which some neuron exceeds 65504.
        top: The share that the top neuron holds of ‖y‖, mean over the tokens of the sample.
        tokens: N.
    """

    largest: np.ndarray
    overflow: np.ndarray
    top: Mean
    tokens: int

    @property
    def headline(self) -> str:
        from arcee_lab.views.html import number

        return (
            f"N = {self.tokens:,} tokens: the largest relu(u)² is {number(self.largest.max())}; "
            f"{int(self.overflow.max()):,} tokens overflow float16 in the worst layer"
        )

    def frame(self) -> "pd.DataFrame":
        """One row per layer: largest, overflow_tokens of n_tokens; top_share, half, n_windows."""
        import pandas as pd

        return pd.DataFrame(
            {
                "layer": range(len(self.largest)),
                "largest": self.largest.astype(np.float64),
                "overflow_tokens": self.overflow,
                "top_share": self.top.value,
                "half": self.top.ci_half_width,
                "n_windows": self.top.windows,
                "n_tokens": self.tokens,
            }
        )

    def figure(self, *, dark: bool = False) -> "Figure":
        """The top neuron's share of the output by layer."""
        from arcee_lab.views.figures.curves import Line, lines

        top = self.top
        share = window_means.average(top.value)
        return lines(
            [
                Line(
                    "mean over tokens, 95% interval",
                    np.arange(len(self.largest)),
                    top.value,
                    top.ci_half_width,
                )
            ],
            x="layer",
            y="‖top neuron‖ / ‖output‖",
            title=f"The strongest neuron is {share:.0%} as long as its MLP's output "
            f"(mean, N = {int(self.top.windows.max(initial=0)):,} windows)"
            if np.isfinite(share)
            else "No neuron writes anything",
            dark=dark,
        )


class Spikes(Analysis):
    """Compares the strongest neuron of each token with the whole output."""

    name: ClassVar[str] = "spikes"
    title: ClassVar[str] = "Spikes"
    reading: ClassVar[str] = (
        "Near 1 a single neuron writes as much as all of the layer adds. Squaring widens the gap "
        "between the strongest neuron and the rest, and doubles the range that a number "
        "format must hold."
    )

    def init(self, shape: Shape, device: torch.device) -> State:
        return window_means.new("top", (shape.layers,), device)

    def layer(self, state: State, seen: LayerBatch) -> None:
        if seen.on_cpu:
            strongest = torch.from_numpy(seen.firings.largest(seen.firings.written)).double()
        else:
            strongest = seen.written.amax(1).double()
        bias = getattr(seen.mlp.down, "bias", None)
        y = seen.y if not isinstance(bias, torch.Tensor) else seen.y - bias
        wide = torch.promote_types(y.dtype, torch.float32)
        norm = torch.linalg.vector_norm(y, dim=1, dtype=wide).double()
        share = torch.where(norm > 0, strongest / norm, 0.0).clamp(max=MOST)
        spans = seen.tokens.spans
        sums, counts = window_means.by_window(share, spans), window_means.by_window(norm > 0, spans)
        window_means.add(state, "top", seen.layer, sums, counts)

    def result(self, state: State, counts: CoreCounts) -> SpikesResult:
        counted = counts.state
        return SpikesResult(
            counted["max_post"].numpy(),
            counted["overflow"].numpy(),
            window_means.mean(state, "top"),
            counts.n_tokens,
        )
