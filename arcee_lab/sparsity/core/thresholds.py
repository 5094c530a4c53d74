"""Row 1 at thresholds above zero: activations by size, counted by the core at every token.

Thresholds can be asked for afterwards (FAT-ε of Sparsing Law, arXiv:2411.02335): the shares below
powers of two are exact. So are quantiles and the kurtosis

    kurtosis of a = N F Σ(a-ā)⁴ / (Σ(a-ā)²)², over all a of the layer, zeros included

in bfloat16. In other dtypes each a counts as the number at which its bin begins (`sizes`), which a
may exceed by less than a factor of 1 + 2^-7.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from arcee_lab.errors import SettingError
from arcee_lab.results import Result
from arcee_lab.sparsity.core import magnitudes

if TYPE_CHECKING:
    import pandas as pd

    from arcee_lab.views.figures.figure import Figure

_SMALL = -7  # the power of two of a small threshold
_SHOWN = range(-39, 24)  # exponents of the thresholds in the table


@dataclass(frozen=True, repr=False)
class Thresholds(Result):
    """Sizes of activations, layer by layer.

    Attributes:
        counts: Pairs of token and neuron by a, in the bins of `magnitudes`; zeros are in none.
        d_mlp: F.
        tokens: N.
    """

    counts: Int[np.ndarray, "layer bin"]
    d_mlp: int
    tokens: int

    def below(self, exponent: int) -> np.ndarray:
        """By layer, the share of activations below 2^exponent, exact zeros included.

        Raises:
            ValueError: An exponent outside -39 to 39.
        """
        place = (exponent - magnitudes.LOWEST) * magnitudes.PER_OCTAVE
        if not 0 < place < magnitudes.BINS:
            raise SettingError(
                f"exponent={exponent}: expected {magnitudes.LOWEST + 1} to "
                f"{-magnitudes.LOWEST - 1}."
            )
        return 1 - self.counts[:, place:].sum(1) / (self.tokens * self.d_mlp)

    def quantile(self, share: float) -> np.ndarray:
        """By layer, this quantile of a: in bfloat16 itself, else the beginning of its bin."""
        pairs = self.tokens * self.d_mlp
        zeros = pairs - self.counts.sum(1, keepdims=True)
        reached = np.concatenate([zeros, self.counts], 1).cumsum(1) >= share * pairs
        return np.concatenate([[0.0], magnitudes.values()])[reached.argmax(1)]

    @property
    def kurtosis(self) -> np.ndarray:
        """By layer, of a over all pairs of token and neuron; NaN where a does not vary."""
        values, pairs = magnitudes.values(), self.tokens * self.d_mlp
        m1, m2, m3, m4 = (self.counts @ values**power / pairs for power in (1, 2, 3, 4))
        with np.errstate(divide="ignore", invalid="ignore"):
            return (m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4) / (m2 - m1**2) ** 2

    @property
    def headline(self) -> str:
        top = self.quantile(0.999)
        return (
            f"N = {self.tokens:,} tokens: by layer, 99.9% of activations are at most "
            f"{top.min():.3g} to {top.max():.3g}"
        )

    def frame(self) -> "pd.DataFrame":
        """One row per layer and power of two: threshold, below (the share), n_tokens."""
        import pandas as pd

        rows = [
            (layer, 2.0**exponent, share, self.tokens)
            for exponent in _SHOWN
            for layer, share in enumerate(self.below(exponent))
        ]
        return pd.DataFrame(rows, columns=["layer", "threshold", "below", "n_tokens"])

    def figure(self, *, dark: bool = False) -> "Figure":
        """The share of activations below each threshold, one line per layer."""
        from arcee_lab.views.figures.curves import Line, lines

        exponents = np.arange(-24, 17)
        below = np.stack([self.below(int(exponent)) for exponent in exponents])
        zeros = 1 - float(self.counts.sum()) / (self.tokens * self.d_mlp * len(self.counts))
        small = float(self.below(_SMALL).mean())
        return lines(
            [Line(f"layer {n}", exponents, below[:, n]) for n in range(len(self.counts))],
            x="threshold on relu(u)², as a power of two",
            y="share of activations below",
            shares="y",
            title=f"{zeros:.1%} of activations are zero, the left end; another "
            f"{small - zeros:.1%} are below {2.0**_SMALL:.2g} (N = {self.tokens:,} tokens)",
            dark=dark,
        )
