"""Row 11: how few of a token's neurons hold what its MLP writes.

With c_i = a_i ‖w_i‖, the length of what neuron i adds to the output, at one token:

    N_eff  = (Σ c)² / Σ c²                 neurons that would hold Σ c at equal shares
    k90    = the fewest neurons that hold 90 % of Σ c, so the largest ones; k99 likewise
    Hoyer  = (√F - √N_eff) / (√F - 1)      from 0 (all alike) to 1 (one neuron)

Each is computed for every token of the sample and then averaged over tokens; nothing is pooled over
tokens first. Tokens at which Σ c is 0 (no neuron fires) or infinite have none of the four, and the
number of tokens that have them is given with the result.

Sources: Kish, "Survey Sampling" (1965), for N_eff; Hoyer, "Non-negative Matrix Factorization with
Sparseness Constraints", JMLR 5 (2004).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from arcee_lab.errors import SettingError
from arcee_lab.results import Result
from arcee_lab.sparsity.core import magnitudes, packed_masks, window_means
from arcee_lab.sparsity.core.counts import CoreCounts
from arcee_lab.sparsity.core.state import Shape, State
from arcee_lab.sparsity.core.window_means import Mean
from arcee_lab.sparsity.streamed.analysis import Analysis, LayerBatch

if TYPE_CHECKING:
    import pandas as pd

    from arcee_lab.views.figures.figure import Figure

Numbers = TypeVar("Numbers", Tensor, np.ndarray)
SHARES = {"k90": 0.90, "k99": 0.99}
MEANS = ("n_eff", *SHARES, "hoyer")
QUANTILES = (0.05, 0.50, 0.95)
_REACHED = 1 - 2.0**-40  # a share that a sum misses by rounding alone counts as reached
_PIECE = 2**24  # activations that are sorted together, off a CPU


class Held(NamedTuple):
    """What some tokens' contributions say; of a token with none all are 0.

    Attributes:
        total: Σ c.
        squares: Σ c².
        k90: Neurons that hold 90 % of Σ c.
        k99: Neurons that hold 99 % of it.
    """

    total: Float[Tensor, " token"]
    squares: Float[Tensor, " token"]
    k90: Int[Tensor, " token"]
    k99: Int[Tensor, " token"]


@dataclass(frozen=True, repr=False)
class ConcentrationResult(Result):
    """Concentration of a token's contributions, by layer.

    Attributes:
        means: Over tokens, of `n_eff`, `k90`, `k99` and `hoyer`, each `[layer]`.
        eff: Tokens by N_eff, in the bins of `magnitudes`.
        holding: Tokens by k90 and by k99; the place in the row is the number of neurons.
        d_mlp: F.
    """

    means: dict[str, Mean]
    eff: Int[np.ndarray, "layer bin"]
    holding: dict[str, Int[np.ndarray, "layer n_neurons"]]
    d_mlp: int

    @property
    def tokens(self) -> Int[np.ndarray, " layer"]:
        """How many tokens were counted: those of the sample at which a neuron writes something."""
        return self.eff.sum(1)

    def quantile(self, name: str, share: float | int) -> np.ndarray:
        """By layer, this quantile over tokens; NaN where none was counted.

        Of k90 and k99 it is exact; of N_eff the number at which its bin begins, which it may exceed
        by less than a factor of 1 + 2^-7; that of Hoyer follows from N_eff.

        Args:
            name: `n_eff`, `k90`, `k99` or `hoyer`.
            share: From 0 to 1.

        Raises:
            ValueError: Another name, or a share out of range.
        """
        if name not in MEANS:
            raise SettingError(f"there is no quantile of {name!r}; expected one of {MEANS}.")
        if not 0 <= share <= 1:
            raise SettingError(f"share={share}: expected 0 to 1.")
        if name == "hoyer":  # falls as N_eff grows, so its quantile is the opposite one
            return hoyer(_quantile(magnitudes.values(), self.eff, share, falling=True), self.d_mlp)
        if name == "n_eff":
            return _quantile(magnitudes.values(), self.eff, share)
        return _quantile(np.arange(self.d_mlp + 1), self.holding[name], share)

    @property
    def headline(self) -> str:
        if not self.tokens.any():
            return "N = 0 tokens: no neuron writes anything"
        eff, k90 = (self.means[name].value for name in ("n_eff", "k90"))
        windows = int(self.means["n_eff"].windows.max())
        return (
            f"N = {int(self.tokens.max()):,} tokens of {windows:,} windows: by layer, a token's "
            f"contributions count as {np.nanmin(eff):.1f} to {np.nanmax(eff):.1f} neurons at equal "
            f"shares, and {np.nanmin(k90):.1f} to {np.nanmax(k90):.1f} of {self.d_mlp:,} neurons "
            "hold 90% of them (means over tokens)"
        )

    def frame(self) -> "pd.DataFrame":
        """One row per layer: mean, half of its interval and quantiles of each; n_tokens."""
        import pandas as pd

        columns: dict[str, object] = {"layer": range(len(self.eff))}
        for name in MEANS:
            columns |= {
                name: self.means[name].value,
                f"{name}_half": self.means[name].ci_half_width,
            }
            columns |= {
                f"{name}_p{round(100 * share):02d}": self.quantile(name, share)
                for share in QUANTILES
            }
        columns |= {"n_windows": self.means["n_eff"].windows, "n_tokens": self.tokens}
        return pd.DataFrame(columns)

    def figure(self, *, dark: bool = False) -> "Figure":
        """Means of N_eff, k90 and k99 by layer, with their intervals."""
        from arcee_lab.views.figures.curves import Line, lines

        layers = np.arange(len(self.eff))
        k90 = self.means["k90"].value
        names = {"n_eff": "at equal shares (N_eff)", "k90": "hold 90%", "k99": "hold 99%"}
        return lines(
            [
                Line(title, layers, self.means[name].value, self.means[name].ci_half_width)
                for name, title in names.items()
            ],
            x="layer",
            y=f"neurons of {self.d_mlp:,}, mean over tokens",
            title=f"{np.nanmin(k90):.0f} to {np.nanmax(k90):.0f} of {self.d_mlp:,} neurons hold "
            f"90% of what a token's MLP writes (N = {int(self.tokens.max()):,} tokens)"
            if np.isfinite(k90).any()
            else "No neuron writes anything",
            dark=dark,
        )


class Concentration(Analysis):
    """Sorts each token's contributions."""

    name: ClassVar[str] = "concentration"
    title: ClassVar[str] = "Concentration of a token's output"
    reading: ClassVar[str] = (
        "Each line is a mean over tokens of how many neurons hold a share of all contributions. "
        "Far below the number that fires, a few neurons do most of the writing: ReLU² squares, so "
        "large contributions grow more than small ones."
    )

    def init(self, shape: Shape, device: torch.device) -> State:
        def zeros(*size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.int64, device=device)

        state: State = {"eff": zeros(shape.layers, magnitudes.BINS)}
        state |= {f"{name}_tokens": zeros(shape.layers, shape.d_mlp + 1) for name in SHARES}
        for name in MEANS:
            state |= window_means.new(name, (shape.layers,), device)
        return state

    def layer(self, state: State, seen: LayerBatch) -> None:
        held = (
            held_from_firings(seen.firings)
            if seen.on_cpu
            else held_from_dense(seen.post, seen.norms)
        )
        there = (held.squares > 0) & held.total.isfinite() & held.squares.isfinite()
        ones = there.long()
        n_eff = torch.where(there, held.total.square() / held.squares, 1.0)
        # Rounded to fp32, an N_eff that is a whole number begins a bin whatever its last bits are.
        bins = magnitudes.places(n_eff.float())
        state["eff"][seen.layer].index_add_(0, bins, ones)
        for name, found in (("k90", held.k90), ("k99", held.k99)):
            state[f"{name}_tokens"][seen.layer].index_add_(0, torch.where(there, found, 0), ones)
        spans = seen.tokens.spans
        terms = (n_eff, held.k90.double(), held.k99.double(), hoyer(n_eff, seen.post.shape[1]))
        for name, x in zip(MEANS, terms, strict=True):
            counts = there & x.isfinite()  # a layer of one neuron has no Hoyer
            sums = window_means.by_window(torch.where(counts, x, 0.0), spans)
            window_means.add(state, name, seen.layer, sums, window_means.by_window(counts, spans))

    def result(self, state: State, counts: CoreCounts) -> ConcentrationResult:
        return ConcentrationResult(
            {name: window_means.mean(state, name) for name in MEANS},
            state["eff"].numpy(),
            {name: state[f"{name}_tokens"].numpy() for name in SHARES},
            counts.rates.shape[1],
        )


def held_from_firings(firings: packed_masks.TokenFirings) -> Held:
    """Of each token, from the list of neurons that fire."""
    counts = np.diff(firings.starts)
    most = max(int(counts.max(initial=0)), 1)
    together = max(1, packed_masks.TOGETHER // most)
    parts = []
    for at in range(0, max(len(counts), 1), together):
        some = counts[at : at + together]
        written = firings.written[firings.starts[at] : firings.starts[at + len(some)]]
        table = np.zeros((len(some), most), written.dtype)
        table[np.arange(most) < some[:, None]] = written
        table.sort(axis=1)
        wide = table[:, ::-1].astype(np.float64)
        parts.append(_held(torch.from_numpy(wide)))
    return Held(*(torch.cat(part) for part in zip(*parts, strict=True)))


def held_from_dense(post: Float[Tensor, "token d_mlp"], norms: Float[Tensor, " d_mlp"]) -> Held:
    """The same from all activations, on any device."""
    kind = torch.promote_types(post.dtype, torch.float32)
    parts = []
    for piece in post.split(max(1, _PIECE // post.shape[1])):
        written = piece.to(kind) * norms.to(kind)
        parts.append(_held(written.sort(dim=1, descending=True).values.double()))
    return Held(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _held(largest_first: Float[Tensor, "token neuron"]) -> Held:
    running = largest_first.cumsum(1)
    total = running[:, -1]
    numbers = (
        # Neurons before the one that reaches the share, and that one.
        (running < total[:, None] * (share * _REACHED)).sum(1) + (total > 0)
        for share in SHARES.values()
    )
    return Held(total, largest_first.square().sum(1), *numbers)


def hoyer(n_eff: Numbers, d_mlp: int) -> Numbers:
    """Hoyer's measure from N_eff; NaN for a layer of one neuron, where it has no meaning."""
    root = d_mlp**0.5
    return (root - n_eff**0.5) / (root - 1 if d_mlp > 1 else float("nan"))


def _quantile(
    values: np.ndarray,
    counts: Int[np.ndarray, "layer value"],
    share: float | int,
    falling: bool = False,
) -> np.ndarray:
    """The smallest value that this share of tokens does not exceed, or, of falling, the largest."""
    if falling:
        values, counts = values[::-1], counts[:, ::-1]
    whole = counts.sum(1, keepdims=True)
    reached = counts.cumsum(1) >= np.maximum(share * whole, 1)
    return np.where(whole[:, 0] > 0, values[reached.argmax(1)], np.nan)
