"""Row 13: active neurons by position in the window.

Positions are put together in bins that grow with the position, one a quarter octave, since early
positions differ most. First positions are apart: they are in no bin.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from arcee_lab.results import Result

if TYPE_CHECKING:
    import pandas as pd

    from arcee_lab.views.figures.figure import Figure


@dataclass(frozen=True, repr=False)
class Positions(Result):
    """Mean active neurons by bin of positions.

    Attributes:
        starts: The first position of each bin.
        active: Mean k, `[bin, layer]`; NaN where a bin is empty.
        tokens: Tokens in each bin.
        d_mlp: Neurons per layer.
    """

    starts: np.ndarray
    active: np.ndarray
    tokens: np.ndarray
    d_mlp: int

    @classmethod
    def from_counts(cls, active: np.ndarray, tokens: np.ndarray, d_mlp: int) -> "Positions":
        """From Σk `[position, layer]` and tokens `[position]`."""
        last = max(len(tokens) - 1, 1)
        steps = np.floor(2 ** (np.arange(0, 4 * np.log2(last) + 1) / 4)).astype(int)
        starts = np.unique(steps[steps <= last])
        sums = np.add.reduceat(active[: last + 1], starts) if len(tokens) > 1 else active[:0]
        counts = np.add.reduceat(tokens[: last + 1], starts) if len(tokens) > 1 else tokens[:0]
        with np.errstate(invalid="ignore"):
            return cls(starts[: len(counts)], sums / counts[:, None], counts, d_mlp)

    @property
    def headline(self) -> str:
        return f"N = {int(self.tokens.sum()):,} tokens in {len(self.starts)} bins of positions"

    @property
    def _finding(self) -> str:
        filled = np.flatnonzero(self.tokens)
        if not len(filled):
            return "No token behind a first position"
        first, last = filled[[0, -1]]
        share = self.active.mean(1) / self.d_mlp
        return (
            f"A token uses {share[first]:.1%} of the neurons at position {self.starts[first]:,}, "
            f"{share[last]:.1%} from {self.starts[last]:,} on "
            f"(mean over layers, N = {int(self.tokens.sum()):,} tokens)"
        )

    def frame(self) -> "pd.DataFrame":
        """One row per layer and bin: layer, position (the bin's first), active, n_tokens."""
        import pandas as pd

        layers = self.active.shape[1]
        return pd.DataFrame(
            {
                "layer": np.tile(np.arange(layers), len(self.starts)),
                "position": np.repeat(self.starts, layers),
                "active": self.active.ravel(),
                "n_tokens": np.repeat(self.tokens, layers),
            }
        )

    def figure(self, *, dark: bool = False) -> "Figure":
        """The share of neurons that fire, by position, one line per layer."""
        from arcee_lab.views.figures.curves import Line, lines

        return lines(
            [
                Line(f"layer {layer}", self.starts, self.active[:, layer] / self.d_mlp)
                for layer in range(self.active.shape[1])
            ],
            x="position in the window",
            y="share of neurons that fire",
            shares="y",
            title=self._finding,
            log_x=True,
            dark=dark,
        )
