"""Sizes in powers of two, from which the share above any threshold is read later."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from arcee_lab.errors import SettingError
from arcee_lab.reducers.reducer import Reducer, State, check_counts
from arcee_lab.reducers.running.binning import Bins, check_octaves
from arcee_lab.reducers.running.chunks import add_ones, pieces
from arcee_lab.reducers.running.result import ReducerResult

if TYPE_CHECKING:
    import pandas as pd


class Share(NamedTuple):
    """A share that is known to be between two numbers; they are equal at a power of two.

    Attributes:
        least: It is no less.
        most: It is no more.
    """

    least: Float[Tensor, "*features"]
    most: Float[Tensor, "*features"]


@dataclass(frozen=True, repr=False)
class LogHistogram(ReducerResult):
    """Sizes of each unit's values, in bins of one octave.

    Attributes:
        tokens: N, the tokens that were counted.
        counts: Last axis: values that are 0 or negative; above 0 and below `edges[0]`; from each
            edge up to the next; from the last edge on; NaN.
        edges: Powers of two.
    """

    tokens: int
    counts: Int[Tensor, "*features bin"]
    edges: Float[Tensor, " edge"]

    @property
    def positive(self) -> Float[Tensor, "*features"]:
        """The share of tokens on which each unit is above 0; exact."""
        return self.counts[..., 1:-1].sum(-1).double() / self.tokens

    def at_least(self, threshold: float) -> Share:
        """The share of tokens on which each unit reaches a threshold.

        Exact at the powers of two among `edges`; between two of them the bounds are theirs.

        Raises:
            ValueError: If the threshold is not above 0; `positive` has the share above 0.
        """
        if not threshold > 0:
            raise SettingError(f"threshold={threshold}: expected above 0; `positive` is the rest.")
        # reaching[..., i]: values that reach edge i; before all of them, those above 0.
        above = self.counts[..., 1:-1].flip(-1).cumsum(-1).flip(-1).double() / self.tokens
        bounds = torch.cat([torch.zeros(1, dtype=torch.float64), self.edges])
        below = int((bounds <= threshold).sum()) - 1
        most = above[..., below]
        if threshold == bounds[below]:
            return Share(most, most)
        last = below + 1 == above.shape[-1]
        return Share(torch.zeros_like(most) if last else above[..., below + 1], most)

    @property
    def headline(self) -> str:
        nan = int(self.counts[..., -1].sum())
        broken = f", {nan:,} values are NaN" if nan else ""
        return f"N = {self.tokens:,} tokens, {self.positive.mean():.2%} of values above 0{broken}"

    @property
    def facts(self) -> dict[str, str]:
        nan = int(self.counts[..., -1].sum())
        return {"above 0": f"{self.positive.mean():.2%}"} | ({"NaN": f"{nan:,}"} if nan else {})

    def frame(self) -> "pd.DataFrame":
        """One row per bin, all units together: from, below, count, share."""
        import pandas as pd

        count = self.counts.flatten(0, -2).sum(0)
        edges = [0.0, *self.edges.tolist()]
        nan = float("nan")
        return pd.DataFrame(
            {
                "from": [-torch.inf, *edges, nan],
                "below": [0.0, *edges[1:], torch.inf, nan],
                "count": count.numpy(),
                "share": (count.double() / max(1, int(count.sum()))).numpy(),
            }
        )


@dataclass(frozen=True)
class Histogram(Reducer):
    """Counts each unit's values by size, in bins from a power of two to the next.

    A threshold need not be chosen before: `at_least` answers any later. Counts are exact.

    Attributes:
        low: Octave of the first edge: 2^low. Values below are counted as small.
        high: Octave of the last edge: 2^high.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> batch = tokenizer(["The dogs near the barn sleep ."], return_tensors="pt")
        >>> with al.capture(model, {"layers.0.mlp.hook_post": al.reducers.Histogram()}) as stats:
        ...     output = model(**batch)
        >>> share = stats["layers.0.mlp.hook_post"].at_least(0.25)
        >>> bool((share.least == share.most).all())
        True
    """

    low: int = -24
    high: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        check_octaves(self.low, self.high)

    @property
    def _bins(self) -> Bins:
        return Bins(self.low, self.high)

    def init(self, shape: tuple[int, ...], device: torch.device) -> State:
        size = (*shape, self._bins.size + 2)
        return {
            "counts": torch.zeros(size, dtype=torch.int64, device=device),
            "tokens": torch.zeros((), dtype=torch.int64, device=device),
        }

    def update(
        self,
        state: State,
        x: Float[Tensor, "batch pos *features"],
        token_mask: Bool[Tensor, "batch pos"],
        **asked: Any,
    ) -> None:
        bins = self._bins
        for piece, mask in pieces(x, token_mask):
            index = torch.where(piece > 0, bins.of(piece) + 1, 0)
            index = torch.where(piece.isnan(), bins.size + 1, index)
            add_ones(state["counts"].view(piece.shape[1], -1), index, mask)
        state["tokens"] += token_mask.sum()

    def finalize(self, state: State) -> LogHistogram:
        return LogHistogram(int(state["tokens"]), state["counts"], self._bins.edges())

    def check(self, state: State) -> None:
        check_counts(state)
        if (state["counts"].sum(-1) != state["tokens"]).any():
            raise SettingError("counts do not add up to tokens")
