"""Rows 1 and 11: sizes of a in powers of two, and what follows from them after the pass.

Each neuron has 64 counts: octave e holds 2^(e-40) <= a < 2^(e-39), the first also all smaller ones
and the last all larger ones. With them any threshold that is a power of two can be asked for later
(FAT-ε of Sparsing Law, arXiv:2411.02335), and concentration of the output is known to within the
width of an octave.

Concentration is that of the contributions c = a_i ‖w_i‖ over all pairs of token and neuron; an
octave counts as its middle in log, √2 · 2^e, so each c is right to a factor √2:

    N_eff  = (Σc)² / (N Σc²)        neurons that would hold Σc at equal shares, per token
    k90    = pairs that hold 90 % of Σc, largest first, per token; k99 likewise
    Hoyer  = (√F - Σc/√(N Σc²)) / (√F - 1), from 0 (all alike) to 1 (one neuron)
    kurtosis of a = N F Σ(a-ā)⁴ / (Σ(a-ā)²)², over all a of the layer, zeros included
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from arcee_lab.sparsity.analysis import Analysis, Result, Seen, Shape, State
from arcee_lab.sparsity.bits import Firings

if TYPE_CHECKING:
    import pandas as pd

    from arcee_lab.sparsity.report import SparsityReport
    from arcee_lab.views.figure import Figure

OCTAVES, LOWEST = 64, -40
_EXPONENT = {  # dtype -> the integer of its bits, where its exponent begins, its bias
    torch.bfloat16: (torch.int16, 7, 127),
    torch.float32: (torch.int32, 23, 127),
    torch.float64: (torch.int64, 52, 1023),
}
SHARES = {"k90": 0.90, "k99": 0.99}


@dataclass(frozen=True, repr=False)
class Concentration(Result):
    """Sizes of activations, layer by layer.

    Attributes:
        counts: Pairs of token and neuron in each octave.
        weighted: Pairs by octave of c = a ‖w‖, eight bins an octave, from 2^-80 on.
        tokens: N, the tokens of the share.
    """

    counts: Int[np.ndarray, "layer octave"]
    weighted: Int[np.ndarray, "layer bin"]
    d_mlp: int
    tokens: int

    def below(self, exponent: int) -> np.ndarray:
        """By layer, the share of activations below 2^exponent, exact zeros included.

        Raises:
            ValueError: An exponent outside -39 to 23.
        """
        if not LOWEST < exponent < LOWEST + OCTAVES:
            raise ValueError(f"exponent={exponent}: expected {LOWEST + 1} to {LOWEST + 63}")
        above = self.counts[:, exponent - LOWEST :].sum(1)
        return 1 - above / (self.tokens * self.d_mlp)

    def quantile(self, share: float) -> np.ndarray:
        """By layer, the lower end of the octave that holds this quantile of a; 0 for a zero."""
        pairs = self.tokens * self.d_mlp
        zeros = pairs - self.counts.sum(1, keepdims=True)
        reached = np.concatenate([zeros, self.counts], 1).cumsum(1) >= share * pairs
        place = reached.argmax(1)
        return np.where(place == 0, 0.0, 2.0 ** (place - 1 + LOWEST))

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

        sizes = _middles(self.weighted.shape[1], -80, 8)
        c1, c2 = self.weighted @ sizes, self.weighted @ sizes**2
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
        sizes = _middles(self.weighted.shape[1], -80, 8)[::-1]
        pairs = self.weighted[:, ::-1]
        mass = (pairs * sizes).cumsum(1)
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
        sizes = _middles(OCTAVES, LOWEST, 1)
        pairs = self.tokens * self.d_mlp
        m1, m2, m3, m4 = (self.counts @ sizes**power / pairs for power in (1, 2, 3, 4))
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


class Octaves(Analysis):
    """Counts each activation in the octave of its size, neuron by neuron."""

    name: ClassVar[str] = "octaves"
    title: ClassVar[str] = "Sizes, thresholds and concentration"
    reading: ClassVar[str] = (
        "Each line starts at the exact zeros and climbs as the threshold drops more; where it is "
        "flat, a threshold costs nothing. ReLU² squares, so small values become very small and a "
        "few large ones hold most of the output."
    )

    def init(self, shape: Shape, device: torch.device) -> State:
        table = (shape.layers, OCTAVES, shape.d_mlp)
        # The largest of all states. No count exceeds the tokens there are, so 4 bytes hold one,
        # in all but the longest texts; on the CPU, where texts are added up, they become 8.
        dtype = torch.int32 if shape.tokens < 2**31 else torch.int64
        return {
            "octaves": torch.zeros(table, dtype=dtype, device=device),
            "tokens": torch.zeros(shape.layers, dtype=torch.int64, device=device),
        }

    def layer(self, state: State, seen: Seen) -> None:
        found = of_firings(seen.firings, seen.post.shape[1]) if seen.on_cpu else of_dense(seen.post)
        state["octaves"][seen.layer] += found
        state["tokens"][seen.layer] += len(seen.post)

    def finished(self, state: State) -> State:
        return state | {"octaves": state["octaves"].long()}

    def result(self, state: State, report: "SparsityReport") -> Concentration:
        octaves = state["octaves"].numpy()
        norms = report.norms.double().numpy()
        return Concentration(
            octaves.sum(2),
            np.stack([_weighted(*pair) for pair in zip(octaves, norms, strict=True)]),
            octaves.shape[2],
            int(state["tokens"][0]),
        )


def of_firings(firings: Firings, d_mlp: int) -> Int[Tensor, "octave d_mlp"]:
    """How many activations each neuron has in each octave, from those that are not 0."""
    key = _octave(torch.from_numpy(firings.values)).mul_(d_mlp).numpy() + firings.neurons
    return torch.from_numpy(np.bincount(key, minlength=OCTAVES * d_mlp).reshape(OCTAVES, d_mlp))


def of_dense(post: Float[Tensor, "token d_mlp"]) -> Int[Tensor, "octave d_mlp"]:
    """The same from all entries, zeros in a row of their own that is dropped."""
    rows = torch.where(post != 0, _octave(post), OCTAVES).long()
    table = torch.zeros(OCTAVES + 1, post.shape[1], dtype=torch.int64, device=post.device)
    return table.scatter_add_(0, rows, torch.ones_like(rows))[:OCTAVES]


def _octave(a: Float[Tensor, "*any"]) -> Int[Tensor, "*any"]:
    """The octave of each value above 0, in the integer of its dtype."""
    # The exponent stands in the bits; a is not negative, so no sign is before it. Infinity has the
    # largest one and lands in the last octave.
    wide = a.float() if a.dtype == torch.float16 else a
    kind, shift, bias = _EXPONENT[wide.dtype]
    return (wide.view(kind) >> shift).sub_(bias + LOWEST).clamp_(0, OCTAVES - 1)


def _middles(bins: int, lowest: int, per_octave: int) -> np.ndarray:
    return 2.0 ** (lowest + (np.arange(bins) + 0.5) / per_octave)


def _weighted(octaves: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Pairs by the size of a ‖w‖: every neuron's octaves, moved by the log of its norm."""
    bins = 8 * 160
    middles = np.log2(_middles(OCTAVES, LOWEST, 1))
    with np.errstate(divide="ignore"):
        logs = middles[:, None] + np.log2(norms)[None]
    place = np.clip(np.floor((logs + 80) * 8), 0, bins - 1)
    return np.bincount(place.astype(np.int64).ravel(), octaves.ravel(), bins).astype(np.int64)
