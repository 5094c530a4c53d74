"""How many units fire at a token."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from arcee_lab.errors import SettingError
from arcee_lab.reducers.reducer import Reducer, State, check_counts, check_whole
from arcee_lab.reducers.running.chunks import fires, pieces
from arcee_lab.reducers.running.result import ReducerResult

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class ActiveCounts(ReducerResult):
    """How many units fired at each token.

    Attributes:
        tokens: N, the tokens that were counted.
        counts: `counts[n]` is the number of tokens at which exactly n units were above 0.
        kept: The number of active units at each of the first `keep` tokens, in the order in which
            the model read them.
    """

    tokens: int
    counts: Int[Tensor, " n_active"]
    kept: Int[Tensor, " kept"]

    @property
    def mean(self) -> float:
        """Active units of a token, on average."""
        sizes = torch.arange(len(self.counts), dtype=torch.float64)
        return float(sizes @ self.counts.double()) / self.tokens if self.tokens else float("nan")

    def quantile(self, share: float) -> int:
        """The least n such that at least this share of tokens has no more than n active units.

        Raises:
            ValueError: No token was counted, or a share outside 0 to 1.
        """
        if not 0 <= share <= 1:
            raise SettingError(f"share={share}: expected 0 to 1.")
        if not self.tokens:
            raise SettingError("No token was counted; expected at least one.")
        # In whole numbers: torch compares these with a float in fp32. Not ceil alone: 0.07 · 100 is
        # above 7 in floats.
        rank = max(1, math.ceil(share * self.tokens * (1 - 1e-14)))
        return int((self.counts.cumsum(0) >= rank).int().argmax())

    @property
    def headline(self) -> str:
        return f"N = {self.tokens:,} tokens, {self.mean:.1f} of {len(self.counts) - 1:,} units fire"

    def frame(self) -> "pd.DataFrame":
        """One row for each number of active units that occurred: active, tokens."""
        import pandas as pd

        active = self.counts.nonzero().flatten()
        return pd.DataFrame({"active": active.numpy(), "tokens": self.counts[active].numpy()})


@dataclass(frozen=True)
class ActiveCount(Reducer):
    """Counts the units above 0 at each token, and makes a histogram of these counts.

    All is exact: int64, fed by fp32 sums of at most 2^24 ones.

    Attributes:
        keep: Tokens whose counts are kept one by one, in the order read; later ones only enter
            the histogram.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> batch = tokenizer(["The dogs near the barn sleep ."], return_tensors="pt")
        >>> requests = {"layers.0.mlp.hook_post": al.reducers.ActiveCount(keep=3)}
        >>> with al.capture(model, requests) as stats:
        ...     output = model(**batch)
        >>> len(stats["layers.0.mlp.hook_post"].kept)
        3
    """

    keep: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("keep", self.keep, least=0)

    def init(self, shape: tuple[int, ...], device: torch.device) -> State:
        units = torch.Size(shape).numel()
        return {
            "counts": torch.zeros(units + 1, dtype=torch.int64, device=device),
            # One place more: tokens that are not kept are written there.
            "kept": torch.zeros(self.keep + 1, dtype=torch.int32, device=device),
            "tokens": torch.zeros((), dtype=torch.int64, device=device),
        }

    def update(
        self,
        state: State,
        x: Float[Tensor, "batch pos *features"],
        token_mask: Bool[Tensor, "batch pos"],
        **asked: Any,
    ) -> None:
        for piece, mask in pieces(x, token_mask):
            active = fires(piece).sum(-1).long()
            state["counts"].index_add_(0, active, mask.long())
            if self.keep:
                places = state["tokens"] + mask.cumsum(0) - 1
                self._put(state["kept"], active.int(), places, mask)
            state["tokens"] += mask.sum()

    def merge(self, a: State, b: State) -> State:
        kept = a["kept"].clone()
        places = torch.arange(self.keep, device=kept.device)
        self._put(kept, b["kept"][:-1], places + a["tokens"], places < b["tokens"])
        return {
            "counts": a["counts"] + b["counts"],
            "kept": kept,
            "tokens": a["tokens"] + b["tokens"],
        }

    def finalize(self, state: State) -> ActiveCounts:
        tokens = int(state["tokens"])
        return ActiveCounts(tokens, state["counts"], state["kept"][: min(tokens, self.keep)])

    def check(self, state: State) -> None:
        check_counts(state)
        if state["counts"].sum() != state["tokens"]:
            raise SettingError("counts do not add up to tokens")
        if (state["kept"] >= len(state["counts"])).any():
            raise SettingError("kept holds more active units than there are")

    def _put(self, kept: Tensor, values: Tensor, places: Tensor, mask: Tensor) -> None:
        places = torch.where(mask & (places < self.keep), places, self.keep)
        kept.scatter_(0, places, values)
        kept[self.keep :].zero_()
