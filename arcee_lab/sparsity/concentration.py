"""Rows 1 and 11: what follows from the sizes of activations, counted by the core at every token.

Thresholds can be asked for afterwards (FAT-ε of Sparsing Law, arXiv:2411.02335): the shares below
powers of two are exact. Concentration is that of the contributions c = a_i ‖w_i‖ over all pairs of
token and neuron:

    N_eff  = (Σc)² / (N Σc²)        neurons that would hold Σc at equal shares, per token
    k90    = pairs that hold 90 % of Σc, largest first, per token; k99 likewise
    Hoyer  = (√F - Σc/√(N Σc²)) / (√F - 1), from 0 (all alike) to 1 (one neuron)
    kurtosis of a = N F Σ(a-ā)⁴ / (Σ(a-ā)²)², over all a of the layer, zeros included

Each a and c counts as the number at which its bin begins (`sizes`): in bfloat16 a is exact and c
right to 2^-8, in other dtypes both may be larger by less than a factor of 1 + 2^-7. A factor that
all share cancels in each of the four.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from arcee_lab.sparsity import sizes
from arcee_lab.sparsity.analysis import Result

if TYPE_CHECKING:
    import pandas as pd

    from arcee_lab.views.figure import Figure

SHARES = {"k90": 0.90, "k99": 0.99}


@dataclass(frozen=True, repr=False)
class Concentration(Result):
    """Sizes of activations, layer by layer.

    Attributes:
        counts: Pairs of token and neuron by a, in the bins of `sizes`; zeros are in none.
        weighted: The same pairs by c = a ‖w‖.
        d_mlp: F.
        tokens: N.
    """

    counts: Int[np.ndarray, "layer bin"]
    weighted: Int[np.ndarray, "layer bin"]
    d_mlp: int
    tokens: int

    @classmethod
    def of(cls, sized: Int[np.ndarray, "layer 2 bin"], d_mlp: int, tokens: int) -> "Concentration":
        """From the histograms of the core."""
        return cls(sized[:, 0], sized[:, 1], d_mlp, tokens)

    def below(self, exponent: int) -> np.ndarray:
        """By layer, the share of activations below 2^exponent, exact zeros included.

        Raises:
            ValueError: An exponent outside -39 to 39.
        """
        place = (exponent - sizes.LOWEST) * sizes.PER_OCTAVE
        if not 0 < place < sizes.BINS:
            raise ValueError(
                f"exponent={exponent}: expected {sizes.LOWEST + 1} to {-sizes.LOWEST - 1}"
            )
        return 1 - self.counts[:, place:].sum(1) / (self.tokens * self.d_mlp)

    def quantile(self, share: float) -> np.ndarray:
        """By layer, this quantile of a: in bfloat16 itself, else the beginning of its bin."""
        pairs = self.tokens * self.d_mlp
        zeros = pairs - self.counts.sum(1, keepdims=True)
        reached = np.concatenate([zeros, self.counts], 1).cumsum(1) >= share * pairs
        return np.concatenate([[0.0], sizes.values()])[reached.argmax(1)]

    @property
    def headline(self) -> str:
        eff = self.frame()["n_eff"]
        return (
            f"N = {self.tokens:,} tokens: the output is held by {eff.min():.1f} to {eff.max():.1f} "
            f"of {self.d_mlp:,} neurons at equal shares, by layer"
        )

    def frame(self) -> "pd.DataFrame":
        """One row a layer: n_eff, k90, k99, hoyer, kurtosis, p999, n_tokens."""
        import pandas as pd

        values = sizes.values()
        c1, c2 = self.weighted @ values, self.weighted @ values**2
        with np.errstate(divide="ignore", invalid="ignore"):
            n_eff = c1**2 / (self.tokens * c2)
            flat = c1 / np.sqrt(self.tokens * c2)
        root = np.sqrt(self.d_mlp)
        columns = {
            "layer": range(len(self.counts)),
            "n_eff": n_eff,
            **{name: self._holding(share) for name, share in SHARES.items()},
            "hoyer": (root - flat) / (root - 1) if self.d_mlp > 1 else np.nan,
            "kurtosis": self._kurtosis(),
            "p999": self.quantile(0.999),
            "n_tokens": self.tokens,
        }
        return pd.DataFrame(columns)

    def _holding(self, share: float) -> np.ndarray:
        values, pairs = sizes.values()[::-1], self.weighted[:, ::-1]
        mass = (pairs * values).cumsum(1)
        held = []
        for number, line in zip(pairs, mass, strict=True):
            if not line[-1]:
                held.append(0.0)
                continue
            wanted = share * line[-1]
            last = int(np.searchsorted(line, wanted))
            before = line[last - 1] if last else 0.0
            # Within the bin that crosses the line all pairs count as equal.
            part = (wanted - before) / (line[last] - before) if line[last] > before else 0.0
            held.append((number[:last].sum() + part * number[last]) / self.tokens)
        return np.array(held)

    def _kurtosis(self) -> np.ndarray:
        values, pairs = sizes.values(), self.tokens * self.d_mlp
        m1, m2, m3, m4 = (self.counts @ values**power / pairs for power in (1, 2, 3, 4))
        with np.errstate(divide="ignore", invalid="ignore"):
            return (m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4) / (m2 - m1**2) ** 2

    def figure(self, *, dark: bool = False) -> "Figure":
        """The share of activations below each threshold, a line a layer."""
        from arcee_lab.views.curves import Line, lines

        exponents = np.arange(-24, 17)
        below = np.stack([self.below(int(exponent)) for exponent in exponents])
        return lines(
            [Line(f"layer {n}", exponents, below[:, n]) for n in range(len(self.counts))],
            x="threshold on relu(u)², as a power of two",
            y="share of activations below",
            title=f"The left end is exact zeros ({self.tokens:,} tokens)",
            dark=dark,
        )
