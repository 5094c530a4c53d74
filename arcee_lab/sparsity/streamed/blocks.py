"""Row 20: zeros in groups of four and in blocks, what structured kernels ask for.

    2:4 share     groups of 4 neighbouring neurons with at most 2 that fire
    2:4 loss      Σ ‖n‖² of what keeping the 2 largest of each group drops, over Σ ‖n‖², a token
    zero blocks   blocks of 16, 32, 64, 128 neighbouring neurons of which none fires
    tile          neurons that fire in the fullest tile of 128, a token

Neighbours are neighbours in the checkpoint's order; neurons left over at the end are left out.

Sources: Haziza et al., "Accelerating Transformer Inference and Training with 2:4 Activation
Sparsity", arXiv:2503.16672; TwELL, arXiv:2603.23198 (nonzeros a tile).
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

SIZES = (16, 32, 64, 128)
TILE = 128
_PAIRS, _FOURS = np.uint64(0x5555555555555555), np.uint64(0x1111111111111111)
MEANS = ("two_four", "lost", *(f"zero_{size}" for size in SIZES), "tile")


@dataclass(frozen=True, repr=False)
class BlocksResult(Result):
    """Structured zeros by layer.

    Attributes:
        means: Each of `two_four`, `lost`, `zero_16` ..., `tile`; NaN where a layer has too few
            neurons for one group.
        fullest: The fullest tile that was seen, by layer.
        zeros: S_l, for the chance of an all-zero block, S^size.
    """

    means: dict[str, Mean]
    fullest: np.ndarray
    zeros: np.ndarray

    @property
    def headline(self) -> str:
        fits, lost = (window_means.average(self.means[name].value) for name in ("two_four", "lost"))
        empty = {size: window_means.average(self.means[f"zero_{size}"].value) for size in SIZES}
        told = [
            f"{share:.1%} of blocks of {size} ({(self.zeros**size).mean():.1%} by chance)"
            for size, share in empty.items()
            if np.isfinite(share) and size in (SIZES[0], SIZES[-1])
        ]
        blocks = f"; empty are {' and '.join(told)}" if told else ""
        return (
            f"{int(self.means['two_four'].windows.max()):,} windows: {fits:.1%} of groups of four "
            f"have at most two neurons that fire; keeping two loses {lost:.2%} of Σ‖n‖²{blocks}"
        )

    @property
    def _finding(self) -> str:
        size = SIZES[0]
        share = window_means.average(self.means[f"zero_{size}"].value)
        if not np.isfinite(share):
            return f"The layers have no blocks of {size} neurons"
        chance = (self.zeros**size).mean()
        n = counted(int(self.means[f"zero_{size}"].windows.max()), "window")
        return (
            f"{share:.0%} of blocks of {size} neurons are all zero; {chance:.0%} by chance "
            f"(N = {n})"
        )

    def frame(self) -> "pd.DataFrame":
        """One row per layer: every mean, its half, chances of zero blocks, the fullest tile."""
        import pandas as pd

        columns: dict[str, object] = {"layer": range(len(self.zeros))}
        for name, mean in self.means.items():
            columns |= {name: mean.value, f"{name}_half": mean.ci_half_width}
        columns |= {f"zero_{size}_chance": self.zeros**size for size in SIZES}
        columns |= {"fullest_tile": self.fullest, "n_windows": self.means["two_four"].windows}
        return pd.DataFrame(columns)

    def figure(self, *, dark: bool = False) -> "Figure":
        """The share of all-zero blocks by their size, one line per layer, with its chance line."""
        from arcee_lab.views.figures.curves import Line, lines

        sizes = np.array((1, *SIZES))
        found = np.stack([self.zeros, *(self.means[f"zero_{size}"].value for size in SIZES)])
        layers = range(len(self.zeros))
        curves = [Line(f"layer {layer}", sizes, found[:, layer]) for layer in layers]
        curves += [
            Line(
                "" if layer else "chance: Sⁿ, dashed",
                sizes,
                self.zeros[layer] ** sizes,
                None,
                True,
                layer,
            )
            for layer in layers
        ]
        return lines(
            curves,
            x="neighbouring neurons in a block",
            y="share of blocks that are all zero",
            shares="y",
            title=self._finding,
            log_x=True,
            dark=dark,
        )


class Blocks(Analysis):
    """Looks at groups of four and at blocks of neighbouring neurons."""

    name: ClassVar[str] = "blocks"
    title: ClassVar[str] = "Zeros in groups and blocks"
    reading: ClassVar[str] = (
        "Hardware skips what is stored together: a line far above its dashed chance line says "
        "zeros cluster, one on it that they are scattered. Neurons are in the checkpoint's order; "
        "reordering them would change this figure and nothing else of the model."
    )

    def init(self, shape: Shape, device: torch.device) -> State:
        state = {"max_tile": torch.zeros(shape.layers, dtype=torch.int64, device=device)}
        for name in MEANS:
            state |= window_means.new(name, (shape.layers,), device)
        return state

    def layer(self, state: State, seen: LayerBatch) -> None:
        found = zeros_from_firings(seen) if seen.on_cpu else zeros_from_dense(seen)
        if "tile" in found:
            top = state["max_tile"][seen.layer]
            top.copy_(torch.maximum(top, found["tile"].amax().long()))
        spans = seen.tokens.spans
        for name, x in found.items():
            there = window_means.by_window(~x.isnan(), spans)
            window_means.add(
                state, name, seen.layer, window_means.by_window(x.nan_to_num(), spans), there
            )

    def result(self, state: State, counts: CoreCounts) -> BlocksResult:
        return BlocksResult(
            {name: window_means.mean(state, name) for name in MEANS},
            state["max_tile"].numpy(),
            counts.zeros.numpy(),
        )


def zeros_from_firings(seen: LayerBatch) -> dict[str, Float[Tensor, " token"]]:
    """Each mean's value at each token, NaN where it has none, from the neurons that fire."""
    packed, firings = seen.packed, seen.firings
    n_tokens, d_mlp = seen.post.shape
    found: dict[str, np.ndarray] = {}
    groups = d_mlp // 4
    if groups:
        token, group = _crowded(packed, groups)
        found["two_four"] = 1 - np.bincount(token, minlength=n_tokens) / groups
        four = 4 * group[:, None] + np.arange(4)
        held = seen.post.reshape(-1)[torch.from_numpy(token[:, None] * d_mlp + four)]
        n = np.sort(held.double().numpy() * seen.norms.numpy()[four], axis=1)
        dropped = np.bincount(token, (n[:, :2] ** 2).sum(1), minlength=n_tokens)
        squares = firings.written**2
        if d_mlp % 4:
            squares[firings.places % d_mlp >= 4 * groups] = 0
        whole = firings.sums(squares)
        found["lost"] = np.divide(dropped, whole, out=np.full(n_tokens, np.nan), where=whole > 0)
    words = packed_masks.words(packed)
    empty = {16: packed.view(np.uint16), 32: packed.view(np.uint32), 64: words}
    empty[128] = words[:, 0::2] | words[:, 1::2]
    for size in SIZES:
        if blocks := d_mlp // size:
            found[f"zero_{size}"] = np.count_nonzero(empty[size][:, :blocks] == 0, 1) / blocks
    if tiles := d_mlp // TILE:
        counts = np.bitwise_count(words)
        found["tile"] = (counts[:, 0::2] + counts[:, 1::2])[:, :tiles].max(1).astype(np.float64)
    return {name: torch.from_numpy(x) for name, x in found.items()}


def _crowded(packed: UInt8[np.ndarray, "token byte"], groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Groups of four of which more than two fire: their tokens and their numbers."""
    words = packed_masks.words(packed)
    # Of each two neighbouring bits whether both are set and whether one is; then of each four.
    both, any_ = words & (words >> 1) & _PAIRS, (words | (words >> 1)) & _PAIRS
    crowded = ((both & (any_ >> 2)) | (any_ & (both >> 2))) & _FOURS
    width, found = packed.shape[1], crowded.view(np.uint8).reshape(-1)
    where = np.flatnonzero(found != 0)
    # A byte is two groups, the first in the high half; both may be crowded.
    high, low = where[found[where] >> 4 != 0], where[found[where] & 1 != 0]
    token = np.concatenate([high, low]) // width
    group = np.concatenate([2 * (high % width), 2 * (low % width) + 1])
    whole = group < groups  # the remaining neurons at the end form no group
    return token[whole], group[whole]


def zeros_from_dense(seen: LayerBatch) -> dict[str, Float[Tensor, " token"]]:
    """The same from all activations."""
    fours = _fours(seen.post != 0)
    found: dict[str, Tensor] = {}
    if fours.shape[1]:
        found["two_four"] = (fours <= 2).double().mean(1)
        found["lost"] = lost(seen.written)
    sums = fours
    for size in SIZES:
        sums = _sums(sums, size // 4 if size == SIZES[0] else 2)
        if sums.shape[1]:
            found[f"zero_{size}"] = (sums == 0).double().mean(1)
    if sums.shape[1]:
        found["tile"] = sums.amax(1).double()
    return found


def lost(written: Float[Tensor, "token d_mlp"]) -> Float[Tensor, " token"]:
    """Σ ‖n‖² beyond the two largest of each group of four over Σ ‖n‖²; NaN where that is 0."""
    groups = written.shape[1] // 4
    n = written[:, : 4 * groups]
    a, b, c, d = n.unflatten(1, (groups, 4)).unbind(2)
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    other, top = torch.minimum(c, d), torch.maximum(c, d)
    smallest = torch.minimum(low, other)
    second = torch.minimum(torch.maximum(low, other), torch.minimum(high, top))
    total = _squares(n)
    return (_squares(smallest) + _squares(second)) / total


def _squares(n: Tensor) -> Tensor:
    # A norm makes no table of squares.
    dtype = torch.promote_types(n.dtype, torch.float32)
    return torch.linalg.vector_norm(n, dim=1, dtype=dtype).double().square()


def _fours(fires: Tensor) -> Tensor:
    """How many fire in each group of four: four bytes are one int32, summed by one product."""
    whole = fires.view(torch.uint8)[:, : fires.shape[1] // 4 * 4].contiguous()
    return (whole.view(torch.int32) * 0x01010101) >> 24


def _sums(counts: Tensor, size: int) -> Tensor:
    """Sums of `size` neighbours; what is left over at the end is left out."""
    groups = counts.shape[1] // size
    parts = counts[:, : groups * size].unflatten(1, (groups, size)).unbind(2) if groups else ()
    if not parts:
        return counts[:, :0]
    # Adding bytes side by side is many times faster than sum(), which widens them.
    total = parts[0].clone()
    for part in parts[1:]:
        total += part
    return total
