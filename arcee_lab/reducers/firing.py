"""How often each unit fires."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from arcee_lab.errors import SettingError
from arcee_lab.reducers.reducer import Reducer, State, check_counts
from arcee_lab.reducers.running.chunks import MOST_TOKENS, fires, piece_length
from arcee_lab.reducers.running.result import ReducerResult, unit_columns
from arcee_lab.reducers.running.uint8_counts import add_bytewise, counts_bytewise

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class FiringRates(ReducerResult):
    """How often each unit fired.

    Attributes:
        tokens: N, the tokens that were counted.
        fired: Of these, on how many each unit was above 0.
    """

    tokens: int
    fired: Int[Tensor, "*features"]

    @property
    def rates(self) -> Float[Tensor, "*features"]:
        """The share of tokens on which each unit fires; NaN where no token was counted."""
        return self.fired.double() / self.tokens

    @property
    def dead(self) -> int:
        """Units that never fired. With 95 % confidence each of them fires on less than 3/N tokens.

        The bound is the rule of three: Hanley and Lippman-Hand, JAMA 249 (1983).
        """
        return int((self.fired == 0).sum())

    @property
    def headline(self) -> str:
        units = self.fired.numel()
        return (
            f"N = {self.tokens:,} tokens, {1 - self.rates.mean():.1%} zeros, "
            f"{self.dead:,} of {units:,} units never fired"
        )

    @property
    def facts(self) -> dict[str, str]:
        return {
            "units": f"{self.fired.numel():,}",
            "above 0": f"{self.rates.mean():.2%}",
            "never fired": f"{self.dead:,}",
        }

    def frame(self) -> "pd.DataFrame":
        """One row per unit: unit, fired, rate, n_tokens."""
        import pandas as pd

        return pd.DataFrame(
            unit_columns(tuple(self.fired.shape))
            | {
                "fired": self.fired.flatten().numpy(),
                "rate": self.rates.flatten().numpy(),
                "n_tokens": self.tokens,
            }
        )


@dataclass(frozen=True)
class FiringRate(Reducer):
    """Counts the tokens on which each unit is above 0.

    Counts are exact: int64, fed by bytes, or by fp32 sums of at most 2^24 ones.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> batch = tokenizer(["The dogs near the barn sleep ."], return_tensors="pt")
        >>> with al.capture(model, {"layers.*.mlp.hook_post": al.reducers.FiringRate()}) as stats:
        ...     output = model(**batch)
        >>> stats["layers.0.mlp.hook_post"].tokens == batch["attention_mask"].sum()
        tensor(True)
    """

    def init(self, shape: tuple[int, ...], device: torch.device) -> State:
        return {
            "fired": torch.zeros(shape, dtype=torch.int64, device=device),
            "tokens": torch.zeros((), dtype=torch.int64, device=device),
        }

    def update(
        self,
        state: State,
        x: Float[Tensor, "batch pos *features"],
        token_mask: Bool[Tensor, "batch pos"],
        **asked: Any,
    ) -> None:
        if counts_bytewise(x):
            state["tokens"] += add_bytewise(state["fired"], x, token_mask)
            return
        one = {name: tensor[None] for name, tensor in state.items()}
        self.update_groups(one, x, token_mask[None])

    def update_groups(
        self,
        state: State,
        x: Float[Tensor, "batch pos *features"],
        token_masks: Bool[Tensor, "group batch pos"],
        **asked: Any,
    ) -> None:
        fired = state["fired"].flatten(1)
        masks = token_masks.flatten(1).float()
        for part, ones in zip(
            x.flatten(0, 1).flatten(1).split(MOST_TOKENS), masks.split(MOST_TOKENS, 1), strict=True
        ):
            # A product with the masks is cheaper than masked sums, and counts all groups at once.
            length, counts = piece_length(part), torch.zeros_like(fired, dtype=torch.float32)
            room = counts.new_empty(min(length, len(part)), part.shape[1])
            for piece, mask in zip(part.split(length), ones.split(length, 1), strict=True):
                counts.addmm_(mask, fires(piece, room))
            fired += counts.long()
        state["tokens"] += token_masks.sum((1, 2))

    def finalize(self, state: State) -> FiringRates:
        return FiringRates(int(state["tokens"]), state["fired"])

    def check(self, state: State) -> None:
        check_counts(state)
        if (state["fired"] > state["tokens"]).any():
            raise SettingError("fired is more than tokens")
