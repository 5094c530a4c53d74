"""Row 16: one model against another, a checkpoint against a later one, a text against another.

    Δp_i          difference of firing rates, second minus first
    JS            Jensen-Shannon divergence, in bits, of the layers' firing: p_i / Σ p
    hot           Jaccard overlap of the busiest 20 % of neurons, of those that fired; two random
                  sets of that size share 0.2/1.8 = 11 %
    agreement     Jaccard overlap of the active neurons at the same token of the same window, mean
                  over all tokens that both reports kept (`drawn`: all, or a uniform sample); two
                  empty sets agree. Its interval is a bootstrap over windows
    by chance     the same of neurons that fire at their rates at these tokens and know of nothing:
                  Σ pq / Σ (p + q - pq), where Σ pq is taken over pairs of different tokens

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

from arcee_lab.bootstrap import ratio_interval
from arcee_lab.errors import SettingError
from arcee_lab.results import Result, counted
from arcee_lab.runs.arguments import checked
from arcee_lab.sparsity.core.counts import Counted
from arcee_lab.sparsity.core.coverage import HOT
from arcee_lab.sparsity.core.packed_masks import unpack
from arcee_lab.sparsity.core.window_means import average

if TYPE_CHECKING:
    import pandas as pd

    from arcee_lab.views.figures.figure import Figure


_AT_ONCE = 2**24  # neurons unpacked from bits together


@dataclass(frozen=True)
class Agreement:
    """Active neurons of two reports at the same tokens, by layer; NaN where they share no token.

    Attributes:
        value: Mean Jaccard overlap.
        low: Lower end of its 95 % interval; NaN with fewer than two windows.
        high: Upper end.
        chance: What neurons that know of nothing would give; NaN with fewer than two tokens.
        tokens: How many tokens both reports kept.
        windows: How many windows these are of.
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    chance: np.ndarray
    tokens: int
    windows: int


@dataclass(frozen=True, repr=False)
class Comparison(Result):
    """Two reports of models of one shape.

    Attributes:
        names: What the two are called.
        tokens: N of each.
        first: Firing rates of the first, `[layer, d_mlp]`.
        second: Of the second.
        agreement: What both say at the same tokens.
    """

    names: tuple[str, str]
    tokens: tuple[int, int]
    first: np.ndarray
    second: np.ndarray
    agreement: Agreement

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
    def headline(self) -> str:
        zeros = [1 - rates.mean() for rates in (self.first, self.second)]
        same, n = self.agreement, self.agreement.tokens
        told = "no token in common, so no agreement"
        if n:
            chance = average(same.chance)
            by_chance = f", by chance {chance:.1%}" if np.isfinite(chance) else ""
            told = f"agreement {same.value.mean():.1%}{by_chance}, at {n:,} tokens in common"
        return (
            f"{self.names[0]} against {self.names[1]}: zeros {zeros[0]:.1%} and {zeros[1]:.1%}, "
            f"N = {self.tokens[0]:,} and {self.tokens[1]:,} tokens; {told}"
        )

    def frame(self) -> "pd.DataFrame":
        """One row per layer."""
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
                "agreement": self.agreement.value,
                "agreement_low": self.agreement.low,
                "agreement_high": self.agreement.high,
                "agreement_chance": self.agreement.chance,
                "same_tokens": self.agreement.tokens,
                "same_windows": self.agreement.windows,
                "n_tokens_first": self.tokens[0],
                "n_tokens_second": self.tokens[1],
            }
        )

    def neurons(self) -> "pd.DataFrame":
        """One row per neuron: layer, unit, first, second, delta."""
        import pandas as pd

        layers, d_mlp = self.first.shape
        return pd.DataFrame(
            {
                "layer": np.repeat(np.arange(layers), d_mlp),
                "unit": np.tile(np.arange(d_mlp), layers),
                "first": self.first.ravel(),
                "second": self.second.ravel(),
                "delta": self.delta.ravel(),
            }
        )

    def figure(self, *, dark: bool = False) -> "Figure":
        """Zeros of both by layer, and their agreement where both were read at the same tokens."""
        from arcee_lab.views.figures.curves import Line, lines

        layers = np.arange(len(self.first))
        curves = [
            Line(f"zeros: {name}", layers, 1 - rates.mean(1))
            for name, rates in zip(self.names, (self.first, self.second), strict=True)
        ]
        same = self.agreement.tokens
        one, two = ((1 - rates).mean() for rates in (self.first, self.second))
        title = f"Exact zeros: {one:.1%} in {self.names[0]}, {two:.1%} in {self.names[1]}"
        if same:
            found = self.agreement
            chance = average(found.chance)
            by_chance = f"{chance:.0%} by chance" if np.isfinite(chance) else "chance is not known"
            title = (
                f"{found.value.mean():.0%} of the neurons that fire in either model fire in both, "
                f"{by_chance} (mean over layers, N = {counted(same, 'token')})"
            )
            half = (found.high - found.low) / 2
            curves += [
                Line("agreement of what fires", layers, found.value, half),
                Line("agreement by chance", layers, found.chance, None, True, 2),
            ]
        return lines(
            curves,
            x="layer",
            y="share",
            shares="y",
            title=title,
            dark=dark,
        )


@checked
def compare(first: Counted, second: Counted) -> Comparison:
    """Compares two reports.

    Raises:
        ValueError: Models of different shapes.
    """
    shapes = [tuple(report.counts.rates.shape) for report in (first, second)]
    if shapes[0] != shapes[1]:
        raise SettingError(
            f"cannot compare {shapes[0]} neurons with {shapes[1]}; expected models of one shape."
        )
    names = (first.label, second.label)
    if names[0] == names[1]:
        names = (f"{names[0]} (first)", f"{names[1]} (second)")
    return Comparison(
        names,
        (first.counts.n_tokens, second.counts.n_tokens),
        first.counts.rates.numpy(),
        second.counts.rates.numpy(),
        _agreement(first, second),
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
    """Jaccard overlap of the busiest 20 % of neurons, by layer; ties go to the lower number.

    A neuron that never fired is not busy, however few others there are; NaN where none fired.
    """
    size = max(1, round(HOT * first.shape[1]))
    found = []
    for pair in zip(first, second, strict=True):
        sets = [
            {int(unit) for unit in np.argsort(-rates, kind="stable")[:size] if rates[unit] > 0}
            for rates in pair
        ]
        either = len(sets[0] | sets[1])
        found.append(len(sets[0] & sets[1]) / either if either else np.nan)
    return np.array(found)


def _agreement(first: Counted, second: Counted) -> Agreement:
    layers, d_mlp = first.counts.rates.shape
    ours, theirs = (report.states["core"] for report in (first, second))
    tokens = [_numbered(state["drawn_order"].numpy()) for state in (ours, theirs)]
    shared, one, two = np.intersect1d(tokens[0], tokens[1], return_indices=True)
    n = len(shared)
    if not n:
        nothing = np.full(layers, np.nan)
        return Agreement(nothing, nothing, nothing, nothing, 0, 0)
    group = np.unique(ours["drawn_windows"].numpy()[one], return_inverse=True)[1]
    sums, chance = np.zeros((group.max() + 1, layers)), np.zeros(layers)
    for layer in range(layers):
        fired, both = np.zeros((2, d_mlp), np.int64), 0
        for at in range(0, n, step := max(1, _AT_ONCE // d_mlp)):
            a, b = (
                unpack(state["drawn_masks"][rows[at : at + step], layer].numpy(), d_mlp)
                for state, rows in ((ours, one), (theirs, two))
            )
            meet, either = (a & b).sum(1), (a | b).sum(1)
            overlap = np.where(either > 0, meet / np.maximum(either, 1), 1.0)
            sums[:, layer] += np.bincount(group[at : at + step], overlap, minlength=len(sums))
            fired += np.stack([a.sum(0), b.sum(0)])
            both += int(meet.sum())
        chance[layer] = _chance(fired, both, n)
    counts = np.bincount(group)
    low, high = ratio_interval(sums, counts)
    return Agreement(sums.sum(0) / n, low, high, chance, n, len(counts))


def _numbered(order: np.ndarray) -> np.ndarray:
    """Each token of an ascending list, and how many equal ones stand before it.

    A window that a text holds twice has each of its tokens twice.
    """
    return np.rec.fromarrays([order, np.arange(len(order)) - order.searchsorted(order)])


def _chance(fired: np.ndarray, both: int, n: int) -> float:
    """Agreement of neurons that fire at their rates, from counts over n tokens of two models.

    What both do at one token is what chance does not know of: only different tokens are paired.
    """
    if n < 2:
        return float("nan")
    meet = (int((fired[0] * fired[1]).sum()) - both) / (n * (n - 1))
    either = fired.sum() / n - meet
    return meet / either if either > 0 else float("nan")


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


@checked
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
        raise SettingError(
            f"{d.size} tokens and {a.size} shares; expected as many of each, at least 5."
        )
    if not ((d > 0).all() and ((a >= 0) & (a <= 1)).all()):
        raise SettingError("expected tokens above 0 and shares from 0 to 1.")
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
        raise SettingError(f"no fit was found: {error}; give more checkpoints.") from error
    return ActivationLaw(float(c), float(alpha), float(b), float(limit), unit)
