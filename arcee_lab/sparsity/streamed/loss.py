"""Row 14, second half: active neurons against the loss at the same token.

Tokens are put in bins of half a nat by their loss, that of predicting the next token from this
one; each bin has Σk and its number of tokens. The correlation is Pearson's.

Source: Luo et al., "Sparsing Law", arXiv:2411.02335 (activation by token).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from arcee_lab.results import Result, counted
from arcee_lab.sparsity.core import window_means
from arcee_lab.sparsity.core.counts import CoreCounts
from arcee_lab.sparsity.core.state import Shape, State
from arcee_lab.sparsity.streamed.analysis import Analysis

if TYPE_CHECKING:
    import pandas as pd

    from arcee_lab.views.figures.figure import Figure

BINS, WIDTH = 40, 0.5  # nats; the last bin holds all larger losses


@dataclass(frozen=True, repr=False)
class LossResult(Result):
    """Active neurons by the loss.

    Attributes:
        active: Mean k by bin, `[bin, layer]`; NaN where a bin is empty.
        tokens: Tokens in each bin.
        correlation: Pearson's, by layer.
        d_mlp: Neurons per layer.
    """

    active: np.ndarray
    tokens: np.ndarray
    correlation: np.ndarray
    d_mlp: int

    @property
    def _finding(self) -> str:
        n = f"N = {counted(int(self.tokens.sum()), 'token')}"
        if not np.isfinite(self.correlation).any():
            return f"Active neurons or losses do not vary over these tokens ({n})"
        return (
            f"Hard tokens use {window_means.as_many(self.correlation)}: correlation "
            f"{window_means.ends(self.correlation)} by layer ({n})"
        )

    @property
    def headline(self) -> str:
        return (
            f"N = {int(self.tokens.sum()):,} tokens with a next one: correlation of active neurons "
            f"and loss, by layer: {window_means.by_layer(self.correlation)}"
        )

    def frame(self) -> "pd.DataFrame":
        """One row per layer and bin that holds a token: loss (its lower end), active, n."""
        import pandas as pd

        filled = np.flatnonzero(self.tokens)
        layers = self.active.shape[1]
        return pd.DataFrame(
            {
                "layer": np.tile(np.arange(layers), len(filled)),
                "loss": np.repeat(filled * WIDTH, layers),
                "active": self.active[filled].ravel(),
                "n_tokens": np.repeat(self.tokens[filled], layers),
                "correlation": np.tile(self.correlation, len(filled)),
            }
        )

    def figure(self, *, dark: bool = False) -> "Figure":
        """Active neurons against the loss; bins with fewer than ten tokens are left out."""
        from arcee_lab.views.figures.curves import Line, lines

        shown = np.flatnonzero(self.tokens >= 10)
        middles = (shown + 0.5) * WIDTH
        return lines(
            [
                Line(f"layer {layer}", middles, self.active[shown, layer] / self.d_mlp)
                for layer in range(self.active.shape[1])
            ],
            x="loss of the next token, nats",
            y="share of neurons that fire",
            shares="y",
            title=self._finding,
            dark=dark,
        )


class Losses(Analysis):
    """Adds up active neurons by the loss of their token."""

    name: ClassVar[str] = "losses"
    title: ClassVar[str] = "Active neurons and the loss"
    reading: ClassVar[str] = (
        "A rising line says that a layer uses more neurons where the next word is hard to tell. "
        "ReLU² lets the number of neurons differ from token to token; a fixed top-k hides this."
    )

    def init(self, shape: Shape, device: torch.device) -> State:
        def zeros(*size: int) -> torch.Tensor:
            return torch.zeros(size, dtype=torch.int64, device=device)

        return {
            "active": zeros(BINS, shape.layers),
            "tokens": zeros(BINS),
            # Σk, Σk², Σ k·loss by layer; Σloss and Σloss² alone; the last three as `exact.split`
            "k": zeros(shape.layers),
            "kk": zeros(shape.layers),
            "k_loss": zeros(shape.layers, 2),
            "loss": zeros(1, 2),
            "loss_loss": zeros(1, 2),
        }

    def batch(self, state: State, tokens, active, losses) -> None:
        if losses is None:
            return
        there = ~losses.isnan()
        loss = torch.where(there, losses, 0.0).double()
        k = active * there[:, None]
        bins = (loss / WIDTH).long().clamp(0, BINS - 1)
        state["active"].index_add_(0, bins, k)
        state["tokens"].index_add_(0, bins, there.long())
        state["k"] += k.sum(0)
        state["kk"] += (k * k).sum(0)
        state["k_loss"] += window_means.split(k * loss[:, None]).sum(0)
        state["loss"] += window_means.split(loss).sum(0)
        state["loss_loss"] += window_means.split(loss * loss).sum(0)

    def result(self, state: State, counts: CoreCounts) -> LossResult:
        tokens = state["tokens"].numpy()
        return LossResult(
            state["active"].numpy() / np.where(tokens > 0, tokens, np.nan)[:, None],
            tokens,
            _correlation(state),
            counts.rates.shape[1],
        )


def _correlation(state: State) -> np.ndarray:
    """Pearson's by layer; NaN where k or the loss does not vary."""
    n = max(state["tokens"].sum().item(), 1)  # without a token no spread is above 0
    k_loss, loss, loss_loss = (
        window_means.real(state[name]) / n for name in ("k_loss", "loss", "loss_loss")
    )
    # Of whole numbers the spread is exact, so that of a constant k is 0 and not a rounding error.
    sums = zip(state["k"].tolist(), state["kk"].tolist(), strict=True)
    spread_k = np.array([(n * kk - k * k) / n**2 for k, kk in sums])
    both, spread = k_loss - state["k"].numpy() / n * loss, loss_loss - loss**2
    # What rounding each loss and each square by up to half a unit may add to a spread of 0.
    unseen = (0.5 + np.abs(loss)) / window_means.FRACTION
    varies = (spread_k > 0) & (spread > unseen)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = both / np.sqrt(spread_k * spread)
    return np.where(varies, np.clip(found, -1, 1), np.nan)
