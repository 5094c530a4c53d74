"""How often chosen units fire at the same token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from arcee_lab.errors import SettingError
from arcee_lab.hooks.selection import indices
from arcee_lab.reducers.reducer import Reducer, State, check_counts
from arcee_lab.reducers.running.chunks import fires, pieces
from arcee_lab.reducers.running.result import ReducerResult

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class CoActivations(ReducerResult):
    """How often chosen units fired at the same token.

    Attributes:
        tokens: N, the tokens that were counted.
        units: The units, as asked for.
        both: Tokens on which two of them fired; on the diagonal those on which one did.
    """

    tokens: int
    units: tuple[int, ...]
    both: Int[Tensor, "unit unit"]

    @property
    def fired(self) -> Int[Tensor, " unit"]:
        """Tokens on which each unit fired."""
        return self.both.diagonal()

    @property
    def given(self) -> Float[Tensor, "unit unit"]:
        """`given[i, j]`: of the tokens on which j fires, the share on which i does; NaN if none."""
        return self.both.double() / self.fired

    @property
    def jaccard(self) -> Float[Tensor, "unit unit"]:
        """Of the tokens on which either fires, the share on which both do; NaN if none."""
        fired = self.fired
        return self.both.double() / (fired[:, None] + fired - self.both)

    @property
    def lift(self) -> Float[Tensor, "unit unit"]:
        """Joint rate over the product of the rates; 1 if independent, NaN where one never fired."""
        fired = self.fired.double()
        return self.both * self.tokens / (fired[:, None] * fired)

    @property
    def headline(self) -> str:
        dead = int((self.fired == 0).sum())
        return (
            f"N = {self.tokens:,} tokens, pairs of {len(self.units)} units, of which {dead} never "
            "fired"
        )

    def frame(self) -> "pd.DataFrame":
        """One row per pair: unit_a, unit_b, both, fired_a, fired_b, jaccard, lift, n_tokens."""
        import pandas as pd

        a, b = torch.triu_indices(len(self.units), len(self.units), offset=1)
        units = torch.tensor(self.units)
        return pd.DataFrame(
            {
                "unit_a": units[a].numpy(),
                "unit_b": units[b].numpy(),
                "both": self.both[a, b].numpy(),
                "fired_a": self.fired[a].numpy(),
                "fired_b": self.fired[b].numpy(),
                "jaccard": self.jaccard[a, b].numpy(),
                "lift": self.lift[a, b].numpy(),
                "n_tokens": self.tokens,
            }
        )


@dataclass(frozen=True)
class CoActivation(Reducer):
    """Counts, for each pair of chosen units, the tokens on which both fire.

    Counts are exact: int64 totals of fp32 sums over at most 2^24 tokens each.

    Attributes:
        units: Indices on the last axis of a site without heads.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> batch = tokenizer(["The dogs near the barn sleep ."], return_tensors="pt")
        >>> requests = {"layers.0.mlp.hook_post": al.reducers.CoActivation(units=[3, 17])}
        >>> with al.capture(model, requests) as stats:
        ...     output = model(**batch)
        >>> stats["layers.0.mlp.hook_post"].both.shape
        torch.Size([2, 2])
    """

    units: Sequence[int]

    def __post_init__(self) -> None:
        super().__post_init__()
        units = indices(self.units, what="units")
        if units is None or len(set(units)) < len(units):
            raise SettingError(f"units={units}: expected one or more units, each once.")
        object.__setattr__(self, "units", units)

    def init(self, shape: tuple[int, ...], device: torch.device) -> State:
        if len(shape) != 1:
            raise SettingError(f"CoActivation takes a site without heads; this one is {shape}.")
        wrong = [unit for unit in self.units if not 0 <= unit < shape[0]]
        if wrong:
            raise SettingError(f"units {wrong} out of range: expected 0 to {shape[0] - 1}.")
        size = (len(self.units), len(self.units))
        return {
            "both": torch.zeros(size, dtype=torch.int64, device=device),
            "tokens": torch.zeros((), dtype=torch.int64, device=device),
        }

    def update(
        self,
        state: State,
        x: Float[Tensor, "batch pos d"],
        token_mask: Bool[Tensor, "batch pos"],
        **asked: Any,
    ) -> None:
        units = torch.tensor(self.units).to(x.device, non_blocking=x.device.type != "cpu")
        chosen = x.index_select(-1, units)
        for piece, mask in pieces(chosen, token_mask):
            fired = fires(piece) * mask[:, None]
            state["both"] += (fired.t() @ fired).long()
        state["tokens"] += token_mask.sum()

    def finalize(self, state: State) -> CoActivations:
        return CoActivations(int(state["tokens"]), tuple(self.units), state["both"])

    def check(self, state: State) -> None:
        check_counts(state)
        both = state["both"]
        fired = both.diagonal()
        if (both != both.t()).any() or (both > fired).any():
            raise SettingError("both is not a table of pairs")
        if (fired > state["tokens"]).any():
            raise SettingError("both is more than tokens")
