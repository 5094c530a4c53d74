"""Quantiles within a stated relative error, from bins that grow by a constant factor."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from arcee_lab.errors import SettingError
from arcee_lab.reducers.reducer import Reducer, State, check_counts
from arcee_lab.reducers.running.binning import Bins, check_octaves
from arcee_lab.reducers.running.chunks import add_ones, pieces
from arcee_lab.reducers.running.result import ReducerResult, unit_columns

if TYPE_CHECKING:
    import pandas as pd

By = Literal["site", "unit"]
_SHOWN = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@dataclass(frozen=True, repr=False)
class Quantiles(ReducerResult):
    """What quantiles are read from.

    Attributes:
        tokens: N, the tokens that were counted.
        counts: Values in each bin, from the most negative to the largest: of all units together
            `[bin]`, or of each `[*features, bin]`.
        values: The representative of each bin; no value of a bin is farther off than the relative
            error.
        nan: Values that were NaN; they are in no bin.
    """

    tokens: int
    counts: Int[Tensor, "*features bin"]
    values: Float[Tensor, " bin"]
    nan: int

    def quantile(self, share: float) -> Float[Tensor, "*features"]:
        """The least value such that at least this share of all values is no larger.

        Args:
            share: From 0 to 1.

        Returns:
            One number, or one per unit; NaN where nothing was counted.

        Raises:
            ValueError: A share outside 0 to 1.
        """
        if not 0 <= share <= 1:
            raise SettingError(f"share={share}: expected 0 to 1.")
        upto = self.counts.cumsum(-1)
        count = upto[..., -1]
        # Not ceil(share · n) alone: 0.07 · 100 is above 7 in floats.
        rank = (share * count.double() * (1 - 1e-14)).ceil().clamp(min=1)
        found = self.values[(upto < rank[..., None]).sum(-1).clamp(max=len(self.values) - 1)]
        return torch.where(count > 0, found, torch.nan)

    @property
    def headline(self) -> str:
        broken = f", {self.nan:,} values are NaN" if self.nan else ""
        if self.counts.ndim > 1:
            units = self.counts[..., 0].numel()
            return f"N = {self.tokens:,} tokens, quantiles of {units:,} units{broken}"
        half, most = (float(self.quantile(share)) for share in (0.5, 0.99))
        return f"N = {self.tokens:,} tokens, median {half:.4g}, 99 % are up to {most:.4g}{broken}"

    def frame(self) -> "pd.DataFrame":
        """One row per quantile: share, value; of single units one row per unit."""
        import pandas as pd

        found = {share: self.quantile(share) for share in _SHOWN}
        if self.counts.ndim == 1:
            return pd.DataFrame({"share": found.keys(), "value": map(float, found.values())})
        columns = {f"q{share:g}": values.flatten().numpy() for share, values in found.items()}
        return pd.DataFrame(
            unit_columns(tuple(self.counts.shape[:-1])) | columns | {"n_tokens": self.tokens}
        )


@dataclass(frozen=True)
class Quantile(Reducer):
    """Counts values in bins that grow by a constant factor, as in DDSketch.

    The counts are exact, so states merge in any order to the same numbers (Masson, Rim and Lee,
    "DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees", 2019).

    Attributes:
        error: Largest relative error of a quantile between 2^low and 2^high in magnitude.
        by: "site": quantiles of all units together. "unit": of each unit, which takes about
            `5.5 · (high - low) / error` bytes per unit.
        low: Magnitudes below 2^low count as 0.
        high: Magnitudes above 2^high are not distinguished.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> batch = tokenizer(["The dogs near the barn sleep ."], return_tensors="pt")
        >>> with al.capture(model, {"layers.0.mlp.hook_pre": al.reducers.Quantile()}) as stats:
        ...     output = model(**batch)
        >>> quantiles = stats["layers.0.mlp.hook_pre"]
        >>> bool(quantiles.quantile(0.05) < quantiles.quantile(0.95))
        True
    """

    error: float = 0.01
    by: By = "site"
    low: int = -40
    high: int = 24

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.error, float) or not 1e-4 <= self.error <= 0.3:
            raise SettingError(f"error={self.error!r}: expected 0.0001 to 0.3.")
        if self.by not in get_args(By):
            raise SettingError(f"by={self.by!r}: expected one of {', '.join(get_args(By))}.")
        check_octaves(self.low, self.high)

    @property
    def _bins(self) -> Bins:
        # A value is off by (r - 1) / (r + 1) at most, where r is the factor from edge to edge.
        # Rounding may put a value across an edge: hence a little finer.
        error = self.error * (1 - 1e-3)
        per_octave = math.ceil(1 / math.log2((1 + error) / (1 - error)))
        return Bins(self.low, self.high, per_octave)

    def init(self, shape: tuple[int, ...], device: torch.device) -> State:
        # Negative magnitudes, 0, positive ones, and NaN.
        size = 2 * (self._bins.size - 1) + 2
        lead = shape if self.by == "unit" else ()
        return {
            "counts": torch.zeros((*lead, size), dtype=torch.int64, device=device),
            "tokens": torch.zeros((), dtype=torch.int64, device=device),
        }

    def update(
        self,
        state: State,
        x: Float[Tensor, "batch pos *features"],
        token_mask: Bool[Tensor, "batch pos"],
        **asked: Any,
    ) -> None:
        bins, counts = self._bins, state["counts"]
        zero, nan = bins.size - 1, 2 * bins.size - 1
        for piece, mask in pieces(x, token_mask):
            index = bins.of(piece)
            index = zero + torch.where(piece < 0, -index, index)
            index = torch.where(piece.isnan(), nan, index)
            add_ones(counts.view(-1, counts.shape[-1]), index, mask)
        state["tokens"] += token_mask.sum()

    def finalize(self, state: State) -> Quantiles:
        edges, ratio = self._bins.edges(), 2 ** (1 / self._bins.per_octave)
        # Between an edge and the next, so that either is off by the same share of itself.
        sizes = edges * (2 * ratio / (1 + ratio))
        sizes[-1] = edges[-1]
        values = torch.cat([-sizes.flip(0), torch.zeros(1, dtype=torch.float64), sizes])
        counts = state["counts"]
        nan = int(counts[..., -1].sum())
        return Quantiles(int(state["tokens"]), counts[..., :-1], values, nan)

    def check(self, state: State) -> None:
        check_counts(state)
        tokens, counts = state["tokens"], state["counts"].sum(-1)
        # Of a site, whose units are not counted separately, each token adds as many values.
        rest = counts - tokens if self.by == "unit" else counts.remainder(tokens.clamp(min=1))
        if rest.any() or (counts.any() and tokens == 0):
            raise SettingError("counts do not add up to tokens")
