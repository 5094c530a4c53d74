"""Row 7: which neurons stay from one token to a later one.

    J_t = |M_t ∩ M_{t-lag}| / |M_t ∪ M_{t-lag}|       Jaccard overlap
    R_t = |M_t ∩ M_{t-lag}| / |M_t|                   reuse: what the rows of that token would serve

averaged over tokens t, at lags 1 to 64 within a window. The chance line is what neurons give that
fire at their own rates and know of nothing: Σ p² / Σ (2p - p²) for J, Σ p² / Σ p for R.

Sources: Zhang et al., "ReLU² Wins", arXiv:2402.03804 (reuse between tokens); Alizadeh et al., "LLM
in a flash", arXiv:2312.11514 (windowed reuse).

On a CPU they are counted over bits, elsewhere by products of masks.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from arcee_lab.results import Result, counted
from arcee_lab.sparsity.core import packed_masks, window_means
from arcee_lab.sparsity.core.counts import CoreCounts
from arcee_lab.sparsity.core.state import Shape, State
from arcee_lab.sparsity.core.window_means import Mean
from arcee_lab.sparsity.streamed.analysis import Analysis, LayerBatch

if TYPE_CHECKING:
    import pandas as pd

    from arcee_lab.views.figures.figure import Figure

LAGS = 64
_FEWEST = 10  # windows that a point of the figure needs
_BLOCKS = 16  # of 64 tokens, laid out in fp32 at a time
_TOKENS = 256  # whose bits stay in the cache while all lags are counted


@dataclass(frozen=True, repr=False)
class OverlapResult(Result):
    """Overlap and reuse by lag.

    Attributes:
        jaccard: J, `[layer, lag]`; the first lag is 1.
        reuse: R, `[layer, lag]`.
        rates: p_i, for the chance lines.
    """

    jaccard: Mean
    reuse: Mean
    rates: np.ndarray

    @property
    def chance(self) -> tuple[np.ndarray, np.ndarray]:
        """By layer, J and R of neurons that fire at their rates, each apart from all else."""
        both = (self.rates**2).sum(1)
        with np.errstate(invalid="ignore"):
            return both / (2 * self.rates.sum(1) - both), both / self.rates.sum(1)

    @property
    def headline(self) -> str:
        first, chance = (
            window_means.average(x) for x in (self.jaccard.value[:, 0], self.chance[0])
        )
        return (
            f"{int(self.jaccard.windows.max()):,} windows: neighbouring tokens share {first:.1%} "
            f"of the neurons that either uses ({chance:.1%} expected by chance)"
        )

    @property
    def _finding(self) -> str:
        first, chance = (
            window_means.average(x) for x in (self.jaccard.value[:, 0], self.chance[0])
        )
        if not np.isfinite(first):
            return "No two tokens are neighbours"
        return (
            f"Neighbouring tokens share {first:.0%} of active neurons; {chance:.0%} by chance "
            f"(N = {counted(int(self.jaccard.windows.max()), 'window')})"
        )

    def frame(self) -> "pd.DataFrame":
        """One row per layer and lag: jaccard, reuse, their halves and chances, n_windows."""
        import pandas as pd

        layers, lags = self.jaccard.value.shape
        chance = [np.repeat(line, lags) for line in self.chance]
        return pd.DataFrame(
            {
                "layer": np.repeat(np.arange(layers), lags),
                "lag": np.tile(np.arange(1, lags + 1), layers),
                "jaccard": self.jaccard.value.ravel(),
                "jaccard_half": self.jaccard.ci_half_width.ravel(),
                "jaccard_chance": chance[0],
                "reuse": self.reuse.value.ravel(),
                "reuse_half": self.reuse.ci_half_width.ravel(),
                "reuse_chance": chance[1],
                "n_windows": self.jaccard.windows.ravel(),
            }
        )

    def figure(self, *, dark: bool = False) -> "Figure":
        """Jaccard overlap against the lag, with the chance line of each layer shown."""
        from arcee_lab.views.figures.curves import Line, lines

        lags = np.arange(1, LAGS + 1)
        # Few windows are long enough for the largest lags; the mean of a few is noise.
        enough = self.jaccard.windows >= min(_FEWEST, self.jaccard.windows.max())
        value, half = (
            np.where(enough, x, np.nan) for x in (self.jaccard.value, self.jaccard.ci_half_width)
        )
        layers = range(len(value))
        last = int(np.flatnonzero(np.isfinite(value).any(axis=0)).max(initial=0)) + 1
        lags, value, half = lags[:last], value[:, :last], half[:, :last]
        curves = [Line(f"layer {layer}", lags, value[layer], half[layer]) for layer in layers]
        curves += [
            Line(
                "" if layer else "chance, dashed",
                lags,
                np.full(last, self.chance[0][layer]),
                None,
                True,
                layer,
            )
            for layer in layers
        ]
        return lines(
            curves,
            x="tokens apart",
            y="Jaccard overlap of active neurons",
            title=self._finding,
            log_x=True,
            dark=dark,
        )


class Overlap(Analysis):
    """Compares each token's active neurons with those of the 64 tokens before it."""

    name: ClassVar[str] = "overlap"
    title: ClassVar[str] = "Neurons kept from token to token"
    reading: ClassVar[str] = (
        "A line above its dashed chance line says that neighbours use the same neurons, beyond "
        "those that fire everywhere. With exact zeros a neuron is kept or not, so no threshold "
        "shapes this curve."
    )

    def init(self, shape: Shape, device: torch.device) -> State:
        size = (shape.layers, LAGS)
        return {
            **window_means.new("jaccard", size, device),
            **window_means.new("reuse", size, device),
        }

    def layer(self, state: State, seen: LayerBatch) -> None:
        device = seen.post.device
        spans, positions = seen.tokens.spans, seen.tokens.positions
        both = overlaps_from_packed(seen.packed) if seen.on_cpu else overlaps_from_masks(seen.post)
        there = torch.from_numpy(pairs(spans, positions)).to(device, non_blocking=True)
        # The token `lag` before it; the first ones have none and are left out by `there`.
        back = torch.arange(len(both), device=device)[:, None] - torch.arange(
            1, LAGS + 1, device=device
        )
        here = seen.active.double()[:, None]
        union = here + seen.active.double()[back.clamp(min=0)] - both
        for name, below in (("jaccard", union), ("reuse", here.expand_as(union))):
            counts = there & (below > 0)
            share = torch.where(counts, both / below.clamp(min=1), 0.0)
            window_means.add(
                state,
                name,
                seen.layer,
                window_means.by_window(share, spans),
                window_means.by_window(counts, spans),
            )

    def result(self, state: State, counts: CoreCounts) -> OverlapResult:
        return OverlapResult(
            window_means.mean(state, "jaccard"),
            window_means.mean(state, "reuse"),
            counts.rates.numpy(),
        )


def overlaps_from_packed(packed: UInt8[np.ndarray, "token byte"]) -> Float[Tensor, "token lag"]:
    """|M_t ∩ M_{t-lag}| of every token and lag 1 to 64, in whichever windows they are.

    Where there is no token so far back the count is 0.
    """
    words = packed_masks.words(packed)
    both = np.zeros((len(words), LAGS))
    for start in range(0, len(words), _TOKENS):
        here = words[start : start + _TOKENS]
        for lag in range(1, min(LAGS, start + len(here) - 1) + 1):
            skipped = max(lag - start, 0)  # the first tokens of the text have none before them
            then = words[start + skipped - lag : start + len(here) - lag]
            shared = np.bitwise_count(here[skipped:] & then)
            both[start + skipped : start + len(here), lag - 1] = shared.sum(1, dtype=np.uint32)
    return torch.from_numpy(both)


def overlaps_from_masks(post: Float[Tensor, "token d_mlp"]) -> Float[Tensor, "token lag"]:
    """The same by products of masks, in blocks of 64 tokens by the 128 before them."""
    d_mlp = post.shape[1]
    pieces = []
    before = torch.zeros(1, LAGS, d_mlp, device=post.device)
    for piece in post.split(LAGS * _BLOCKS):
        fires = piece.sign().float()  # a is never negative
        own = torch.nn.functional.pad(fires, (0, 0, 0, -len(fires) % LAGS)).view(-1, LAGS, d_mlp)
        # A product in fp32 counts to 2^24 exactly.
        past = torch.cat([own[:1] @ before.mT, own[1:] @ own[:-1].mT])
        wide = torch.cat([past, own @ own.mT], dim=2)  # block token 2*LAGS
        before = own[-1:]
        token = torch.arange(LAGS, device=post.device)[:, None]
        lag = torch.arange(1, LAGS + 1, device=post.device)[None]
        both = wide.gather(2, (LAGS + token - lag).expand(len(own), -1, -1))
        pieces.append(both.view(-1, LAGS)[: len(piece)])
    return torch.cat(pieces).double()


def pairs(spans: tuple[tuple[int, int], ...], positions: np.ndarray) -> np.ndarray:
    """Which pairs count, `[token, lag]`: both tokens in one window, `lag` positions apart."""
    starts, stops = np.array(spans).T
    lags = np.arange(1, LAGS + 1)
    back = np.arange(len(positions))[:, None] - lags
    inside = back >= np.repeat(starts, stops - starts)[:, None]
    # A token that does not count (BOS amid a window) leaves a gap in the positions.
    return inside & (positions[:, None] - positions[np.maximum(back, 0)] == lags)
