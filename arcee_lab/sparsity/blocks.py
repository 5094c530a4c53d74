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
from jaxtyping import Float
from torch import Tensor

from arcee_lab.sparsity import exact
from arcee_lab.sparsity.analysis import Analysis, Result, Seen, Shape, State
from arcee_lab.sparsity.exact import Mean

if TYPE_CHECKING:
    import pandas as pd

    from arcee_lab.sparsity.report import SparsityReport
    from arcee_lab.views.figure import Figure

SIZES = (16, 32, 64, 128)
TILE = 128
MEANS = ("two_four", "lost", *(f"zero_{size}" for size in SIZES), "tile")


@dataclass(frozen=True, repr=False)
class Structure(Result):
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
        fits, lost = (exact.average(self.means[name].value) for name in ("two_four", "lost"))
        return (
            f"{int(self.means['two_four'].windows.max()):,} windows: {fits:.1%} of groups of four "
            f"have at most two neurons that fire; keeping two loses {lost:.2%} of Σ‖n‖²"
        )

    def frame(self) -> "pd.DataFrame":
        """One row a layer: every mean, its half, chances of zero blocks, the fullest tile."""
        import pandas as pd

        columns: dict[str, object] = {"layer": range(len(self.zeros))}
        for name, mean in self.means.items():
            columns |= {name: mean.value, f"{name}_half": mean.half}
        columns |= {f"zero_{size}_chance": self.zeros**size for size in SIZES}
        columns |= {"fullest_tile": self.fullest, "n_windows": self.means["two_four"].windows}
        return pd.DataFrame(columns)

    def figure(self, *, dark: bool = False) -> "Figure":
        """The share of all-zero blocks by their size, a line a layer, with its chance line."""
        from arcee_lab.views.curves import Line, lines

        layers = len(self.zeros)
        shown = sorted({round(place) for place in np.linspace(0, layers - 1, min(layers, 6))})
        sizes = np.array((1, *SIZES))
        found = np.stack([self.zeros, *(self.means[f"zero_{size}"].value for size in SIZES)])
        curves = [Line(f"layer {layer}", sizes, found[:, layer]) for layer in shown]
        curves += [
            Line(
                "" if place else "chance: Sⁿ", sizes, self.zeros[layer] ** sizes, None, True, place
            )
            for place, layer in enumerate(shown)
        ]
        return lines(
            curves,
            x="neighbouring neurons in a block",
            y="share of blocks that are all zero",
            title="Zeros in blocks",
            log_x=True,
            dark=dark,
        )


class Blocks(Analysis):
    """Looks at groups of four and at blocks of neighbouring neurons."""

    name: ClassVar[str] = "blocks"
    title: ClassVar[str] = "Zeros in groups and blocks"
    reading: ClassVar[str] = (
        "Hardware skips what lies together: a line far above its dashed chance line says zeros "
        "cluster. ReLU² zeros are scattered by training, so without reordering neurons few blocks "
        "are empty; groups of four fit the 2:4 pattern all the same."
    )

    def init(self, shape: Shape, device: torch.device) -> State:
        state = {"max_tile": torch.zeros(shape.layers, dtype=torch.int64, device=device)}
        for name in MEANS:
            state |= exact.new(name, (shape.layers,), device)
        return state

    def layer(self, state: State, seen: Seen) -> None:
        fires, spans = seen.post != 0, seen.tokens.spans
        fours = _fours(fires)
        found: dict[str, tuple[Tensor, Tensor]] = {}
        if fours.shape[1]:
            always = torch.ones(len(fires), dtype=torch.float64, device=fires.device)
            found["two_four"] = (fours <= 2).double().mean(1), always
            found["lost"] = lost(seen.written)
            sums = fours
            for size in SIZES:
                sums = _sums(sums, size // 4 if size == SIZES[0] else 2)
                if sums.shape[1]:
                    found[f"zero_{size}"] = (sums == 0).double().mean(1), always
            if sums.shape[1]:
                fullest = sums.amax(1)
                found["tile"] = fullest.double(), always
                top = state["max_tile"][seen.layer]
                top.copy_(torch.maximum(top, fullest.amax().long()))
        for name, (x, n) in found.items():
            exact.add(state, name, seen.layer, exact.by_window(x, spans), exact.by_window(n, spans))

    def result(self, state: State, report: "SparsityReport") -> Structure:
        return Structure(
            {name: exact.mean(state, name) for name in MEANS},
            state["max_tile"].numpy(),
            report.zeros.numpy(),
        )


def lost(
    written: Float[Tensor, "token d_mlp"],
) -> tuple[Float[Tensor, " token"], Float[Tensor, " token"]]:
    """Σ ‖n‖² beyond the two largest of each group of four over Σ ‖n‖², and whether there is any."""
    groups = written.shape[1] // 4
    n = written[:, : 4 * groups]
    a, b, c, d = n.unflatten(1, (groups, 4)).unbind(2)
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    other, top = torch.minimum(c, d), torch.maximum(c, d)
    smallest = torch.minimum(low, other)
    second = torch.minimum(torch.maximum(low, other), torch.minimum(high, top))
    total = _squares(n)
    share = (_squares(smallest) + _squares(second)) / total.clamp(min=1e-300)
    return torch.where(total > 0, share, 0.0), (total > 0).double()


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
