"""Row 16: one model against another, a checkpoint against a later one, a text against another.

    Δp_i          difference of firing rates, second minus first
    JS            Jensen-Shannon divergence, in bits, of the layers' firing: p_i / Σ p
    hot           Jaccard overlap of the busiest 20 % of neurons; two random sets of that size
                  share 0.2/1.8 = 11 %
    agreement     Jaccard overlap of the active neurons at the same tokens of the same windows,
                  where both reports kept some; by chance Σ pq / Σ (p + q - pq)

Quantised kernels flip activations near zero, so masks are compared and never expected equal.

Over a training run the share of active neurons follows A(D) = exp(-c D^α + b) + A₀ for ReLU:
`fit_activation` finds the constants.

Sources: Luo et al., "Sparsing Law", arXiv:2411.02335, equation 4; PowerInfer, arXiv:2312.12456 (hot
neurons); Lin, "Divergence measures based on the Shannon entropy" (1991).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from arcee_lab.sparsity.analysis import Result
from arcee_lab.sparsity.bits import unpack
from arcee_lab.sparsity.coverage import HOT

if TYPE_CHECKING:
    import pandas as pd

    from arcee_lab.sparsity.report import SparsityReport
    from arcee_lab.views.figure import Figure


@dataclass(frozen=True, repr=False)
class Comparison(Result):
    """Two reports of models of one shape.

    Attributes:
        names: What the two are called.
        tokens: N of each.
        first: Firing rates of the first, `[layer, d_mlp]`.
        second: Of the second.
        agreement: Jaccard overlap of active neurons at the same tokens, by layer; NaN where none.
        same_tokens: How many tokens both kept.
    """

    names: tuple[str, str]
    tokens: tuple[int, int]
    first: np.ndarray
    second: np.ndarray
    agreement: np.ndarray
    same_tokens: int

    @property
    def delta(self) -> np.ndarray:
        """Δp, `[layer, d_mlp]`."""
        return self.second - self.first

    @property
    def divergence(self) -> np.ndarray:
        """JS by layer, in bits."""
        return divergence(self.first, self.second)

    @property
    def hot(self) -> np.ndarray:
        """Overlap of the hot sets by layer."""
        return hot_overlap(self.first, self.second)

    @property
    def chance(self) -> np.ndarray:
        """By layer, the agreement of neurons that fire at their rates and know of nothing."""
        both = (self.first * self.second).sum(1)
        with np.errstate(invalid="ignore"):
            return both / (self.first.sum(1) + self.second.sum(1) - both)

    @property
    def headline(self) -> str:
        zeros = [1 - rates.mean() for rates in (self.first, self.second)]
        same = f"; {self.same_tokens:,} tokens in common" if self.same_tokens else ""
        return (
            f"{self.names[0]} against {self.names[1]}: zeros {zeros[0]:.1%} and {zeros[1]:.1%}, "
            f"N = {self.tokens[0]:,} and {self.tokens[1]:,} tokens{same}"
        )

    def frame(self) -> "pd.DataFrame":
        """One row a layer."""
        import pandas as pd

        return pd.DataFrame(
            {
                "layer": range(len(self.first)),
                "zeros_first": 1 - self.first.mean(1),
                "zeros_second": 1 - self.second.mean(1),
                "mean_abs_delta": np.abs(self.delta).mean(1),
                "max_abs_delta": np.abs(self.delta).max(1),
                "js_bits": self.divergence,
                "hot_jaccard": self.hot,
                "hot_chance": HOT / (2 - HOT),
                "agreement": self.agreement,
                "agreement_chance": self.chance,
                "same_tokens": self.same_tokens,
            }
        )

    def neurons(self) -> "pd.DataFrame":
        """One row a neuron: layer, neuron, first, second, delta."""
        import pandas as pd

        layers, d_mlp = self.first.shape
        return pd.DataFrame(
            {
                "layer": np.repeat(np.arange(layers), d_mlp),
                "neuron": np.tile(np.arange(d_mlp), layers),
                "first": self.first.ravel(),
                "second": self.second.ravel(),
                "delta": self.delta.ravel(),
            }
        )

    def figure(self, *, dark: bool = False) -> "Figure":
        """Zeros of both by layer, and their agreement where both were read at the same tokens."""
        from arcee_lab.views.curves import Line, lines

        layers = np.arange(len(self.first))
        curves = [
            Line(f"zeros: {name}", layers, 1 - rates.mean(1))
            for name, rates in zip(self.names, (self.first, self.second), strict=True)
        ]
        if self.same_tokens:
            curves += [
                Line("agreement of what fires", layers, self.agreement),
                Line("agreement by chance", layers, self.chance, None, True, 2),
            ]
        return lines(
            curves,
            x="layer",
            y="share",
            title=f"Two models on one text ({self.same_tokens:,} tokens in common)"
            if self.same_tokens
            else "Exact zeros by layer",
            dark=dark,
        )


def compare(first: "SparsityReport", second: "SparsityReport") -> Comparison:
    """Compares two reports.

    Raises:
        ValueError: Models of different shapes.
    """
    shapes = [tuple(report.rates.shape) for report in (first, second)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"cannot compare {shapes[0]} neurons with {shapes[1]}; expected models of one shape"
        )
    agreement, same = _agreement(first, second)
    names = (first.label, second.label)
    if names[0] == names[1]:
        names = (f"{names[0]} (first)", f"{names[1]} (second)")
    return Comparison(
        names,
        (first.n_tokens, second.n_tokens),
        first.rates.numpy(),
        second.rates.numpy(),
        agreement,
        same,
    )


def divergence(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence of two `[layer, d_mlp]` tables of rates, in bits, by layer."""
    with np.errstate(divide="ignore", invalid="ignore"):
        one, two = (rates / rates.sum(1, keepdims=True) for rates in (first, second))
        middle = (one + two) / 2
        parts = [np.where(q > 0, q * np.log2(q / middle), 0.0).sum(1) for q in (one, two)]
    dead = (first.sum(1) == 0) | (second.sum(1) == 0)
    return np.where(dead, np.nan, sum(parts) / 2)


def hot_overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Jaccard overlap of the busiest 20 % of neurons, by layer; ties go to the lower number."""
    size = max(1, round(HOT * first.shape[1]))
    found = []
    for one, two in zip(first, second, strict=True):
        sets = [set(np.argsort(-rates, kind="stable")[:size].tolist()) for rates in (one, two)]
        found.append(len(sets[0] & sets[1]) / len(sets[0] | sets[1]))
    return np.array(found)


def _agreement(first: "SparsityReport", second: "SparsityReport") -> tuple[np.ndarray, int]:
    layers, d_mlp = first.rates.shape
    nothing = np.full(layers, np.nan), 0
    if "unions" not in first.states or "unions" not in second.states:
        return nothing
    ours, theirs = (report.states["unions"]["kept_keys"].numpy() for report in (first, second))
    shared, one, two = np.intersect1d(ours, theirs, return_indices=True)
    if not len(shared):
        return nothing
    masks = [report.states["unions"]["kept_masks"].numpy() for report in (first, second)]
    found = np.zeros(layers)
    for layer in range(layers):
        a, b = (unpack(m[at, layer], d_mlp) for m, at in zip(masks, (one, two), strict=True))
        either = (a | b).sum(1)
        found[layer] = np.where(either, (a & b).sum(1) / np.maximum(either, 1), 1.0).mean()
    return found, len(shared)


@dataclass(frozen=True)
class ActivationLaw:
    """A(D) = exp(-c D^α + b) + A₀, the share of active neurons after D tokens of training.

    Attributes:
        c: With D in units of the last D that was fitted.
        alpha: α.
        b: b.
        limit: A₀, where it goes.
        unit: The last D that was fitted.
    """

    c: float
    alpha: float
    b: float
    limit: float
    unit: float

    def __call__(self, tokens: float | np.ndarray) -> np.ndarray:
        """A(D)."""
        d = np.asarray(tokens, dtype=np.float64) / self.unit
        return np.exp(-self.c * d**self.alpha + self.b) + self.limit


def fit_activation(
    tokens: Sequence[float | int] | np.ndarray, active: Sequence[float | int] | np.ndarray
) -> ActivationLaw:
    """Fits A(D) by least squares.

    Args:
        tokens: D, tokens of training at each checkpoint, above 0.
        active: The share of active neurons there: one minus the share of zeros.

    Raises:
        ValueError: Fewer than five checkpoints, other lengths, values out of range, or no fit.

    Example:
        >>> from arcee_lab.sparsity import fit_activation
        >>> law = fit_activation([1, 2, 4, 8, 16, 32], [0.5, 0.4, 0.3, 0.22, 0.2, 0.2])
        >>> round(law.limit, 1)
        0.2
    """
    from scipy.optimize import curve_fit

    d, a = np.asarray(tokens, dtype=np.float64), np.asarray(active, dtype=np.float64)
    if d.shape != a.shape or d.ndim != 1 or len(d) < 5:
        raise ValueError(
            f"{d.size} tokens and {a.size} shares; expected as many of each, at least 5"
        )
    if not ((d > 0).all() and ((a >= 0) & (a <= 1)).all()):
        raise ValueError("expected tokens above 0 and shares from 0 to 1")
    unit = float(d.max())

    def law(x: np.ndarray, c: float, alpha: float, b: float, limit: float) -> np.ndarray:
        return np.exp(-c * x**alpha + b) + limit

    bounds = ([0, 0.01, -20, 0], [1e4, 10, 20, 1])
    start = (3.0, 0.7, float(np.log(max(np.ptp(a), 1e-3))), float(a.min()))
    try:
        (c, alpha, b, limit), _ = curve_fit(
            law, d / unit, a, p0=start, bounds=bounds, max_nfev=20000
        )
    except RuntimeError as error:
        raise ValueError(f"no fit was found: {error}; give more checkpoints") from error
    return ActivationLaw(float(c), float(alpha), float(b), float(limit), unit)
