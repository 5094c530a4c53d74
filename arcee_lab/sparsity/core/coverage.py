"""Row 4: how few neurons hold how much of all firing.

    C(q)   share of Σ p held by the top q neurons       n80   the fewest neurons that hold 80 %
    Gini   0 when all fire alike, towards 1 when few do all
    slope  of log p against log rank, least squares over the neurons that fired: Zipf has -1

Source: Song et al., "PowerInfer", arXiv:2312.12456 (hot and cold neurons).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from arcee_lab.results import Result

if TYPE_CHECKING:
    import pandas as pd

    from arcee_lab.views.figures.figure import Figure

HOT = 0.2  # the share of neurons that is called hot when two texts are compared


@dataclass(frozen=True, repr=False)
class Coverage(Result):
    """Firing rates, from the busiest neuron down.

    Attributes:
        rates: p, sorted within each layer, largest first.
        tokens: N.
    """

    rates: np.ndarray
    tokens: int

    @classmethod
    def from_rates(cls, rates: np.ndarray, tokens: int) -> "Coverage":
        """From the rates of each layer, in any order."""
        return cls(np.sort(rates, axis=1)[:, ::-1], tokens)

    @property
    def curve(self) -> np.ndarray:
        """C, `[layer, q]`, for q of 1 to F neurons; NaN in a layer that never fired."""
        total = self.rates.sum(1, keepdims=True)
        with np.errstate(invalid="ignore"):
            return self.rates.cumsum(1) / total

    def holding(self, share: float) -> np.ndarray:
        """By layer, the fewest neurons that hold this share of all firing; 0 where none fired."""
        curve = np.nan_to_num(self.curve, nan=1.0)
        # Slightly below, so that rounding in the sum does not require one more neuron.
        found = (curve >= share - 1e-12).argmax(1) + 1
        return np.where(self.rates.sum(1) > 0, found, 0)

    @property
    def gini(self) -> np.ndarray:
        """By layer, the Gini coefficient of the rates."""
        size = self.rates.shape[1]
        ranks = np.arange(size, 0, -1)  # of the rates from the smallest, which is last, up
        with np.errstate(invalid="ignore"):
            return 2 * (ranks * self.rates).sum(1) / (size * self.rates.sum(1)) - (size + 1) / size

    @property
    def slope(self) -> np.ndarray:
        """By layer, the slope of log p over log rank; NaN where fewer than two neurons fired."""
        slopes = []
        for rates in self.rates:
            fired = rates[rates > 0]
            ranks = np.log(np.arange(1, len(fired) + 1))
            several = len(fired) > 1
            slopes.append(np.polyfit(ranks, np.log(fired), 1)[0] if several else np.nan)
        return np.array(slopes)

    @property
    def headline(self) -> str:
        share = self.holding(0.8).sum() / self.rates.size
        return f"N = {self.tokens:,} tokens: {share:.1%} of the neurons do 80% of the firing"

    def frame(self) -> "pd.DataFrame":
        """One row per layer: n50, n80, n95, share80, gini, slope, n_tokens."""
        import pandas as pd

        return pd.DataFrame(
            {
                "layer": range(len(self.rates)),
                **{f"n{percent}": self.holding(percent / 100) for percent in (50, 80, 95)},
                "share80": self.holding(0.8) / self.rates.shape[1],
                "gini": self.gini,
                "slope": self.slope,
                "n_tokens": self.tokens,
            }
        )

    def figure(self, *, dark: bool = False) -> "Figure":
        """C against the share of neurons, one line per layer."""
        from arcee_lab.views.figures.curves import Line, lines

        size = self.rates.shape[1]
        shown = np.unique(np.linspace(0, size - 1, min(size, 200)).astype(int))
        curve = self.curve
        return lines(
            [
                Line(f"layer {layer}", (shown + 1) / size, curve[layer, shown])
                for layer in range(len(curve))
            ],
            x="share of neurons, busiest first",
            y="share of all firing",
            shares="xy",
            title=f"{self.holding(0.8).sum() / self.rates.size:.1%} of the neurons do 80% of the "
            f"firing (N = {self.tokens:,} tokens)",
            dark=dark,
        )
