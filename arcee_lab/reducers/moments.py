"""Mean, variance and largest value of each unit."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from arcee_lab.errors import SettingError
from arcee_lab.reducers.reducer import Reducer, State
from arcee_lab.reducers.running import moments_on_cpu
from arcee_lab.reducers.running.chunks import pieces, wide
from arcee_lab.reducers.running.result import ReducerResult, unit_columns

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class MomentsOf(ReducerResult):
    """Mean, variance and largest value of each unit; NaN and -inf where no token was counted.

    Attributes:
        tokens: N, the tokens that were counted.
        mean: Over the N tokens.
        variance: Over the N tokens, divided by N.
        max: The largest value.
    """

    tokens: int
    mean: Float[Tensor, "*features"]
    variance: Float[Tensor, "*features"]
    max: Float[Tensor, "*features"]

    @property
    def std(self) -> Float[Tensor, "*features"]:
        """The square root of the variance."""
        return self.variance.sqrt()

    @property
    def headline(self) -> str:
        return (
            f"N = {self.tokens:,} tokens, mean {self.mean.mean():.4g}, largest value "
            f"{self.max.max():.4g}, over {self.mean.numel():,} units"
        )

    @property
    def facts(self) -> dict[str, str]:
        return {
            "units": f"{self.mean.numel():,}",
            "mean": f"{self.mean.mean():.4g}",
            "largest value": f"{self.max.max():.4g}",
        }

    def frame(self) -> "pd.DataFrame":
        """One row per unit: unit, mean, std, max, n_tokens."""
        import pandas as pd

        numbers = {"mean": self.mean, "std": self.std, "max": self.max}
        return pd.DataFrame(
            unit_columns(tuple(self.mean.shape))
            | {name: values.flatten().numpy() for name, values in numbers.items()}
            | {"n_tokens": self.tokens}
        )


@dataclass(frozen=True)
class Moments(Reducer):
    """Mean, variance and largest value of each unit.

    Sums are fp64 around the mean of each piece (on a CPU around that of the call's first tokens),
    put together as in Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for
    computing sample variances" (1979), so that no digits are lost where the mean is large compared
    with the spread. States merged in another order agree to about 1e-12 of the variance plus 1e-15
    of the squared mean; the maximum is exact.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> batch = tokenizer(["The dogs near the barn sleep ."], return_tensors="pt")
        >>> with al.capture(model, {"layers.0.hook_resid_post": al.reducers.Moments()}) as stats:
        ...     output = model(**batch)
        >>> stats["layers.0.hook_resid_post"].mean.shape[0] == model.config.hidden_size
        True
    """

    def init(self, shape: tuple[int, ...], device: torch.device) -> State:
        dtype = wide(device)
        return {
            "tokens": torch.zeros((), dtype=torch.int64, device=device),
            "mean": torch.zeros(shape, dtype=dtype, device=device),
            "squares": torch.zeros(shape, dtype=dtype, device=device),
            "max": torch.full(shape, -torch.inf, dtype=dtype, device=device),
        }

    def update(
        self,
        state: State,
        x: Float[Tensor, "batch pos *features"],
        token_mask: Bool[Tensor, "batch pos"],
        **asked: Any,
    ) -> None:
        shape, dtype = state["mean"].shape, state["mean"].dtype
        if moments_on_cpu.fits(x):
            found = moments_on_cpu.moments(x, token_mask)
            if found is not None:
                units = ("mean", "squares", "max")
                found |= {name: found[name].view(shape) for name in units}
                for name, value in self.merge(state, found).items():
                    state[name].copy_(value)
            return
        for piece, mask in pieces(x, token_mask):
            count = mask.sum()
            # Not a product: the values at padding may be NaN.
            values = torch.where(mask[:, None], piece, 0.0).to(dtype)
            weights = mask.to(dtype)
            mean = weights @ values / count.clamp(min=1)
            batch = {
                "tokens": count,
                "mean": mean.view(shape),
                "squares": (weights @ (values - mean).square()).view(shape),
                "max": torch.where(mask[:, None], piece, -torch.inf).amax(0).to(dtype).view(shape),
            }
            for name, value in self.merge(state, batch).items():
                state[name].copy_(value)

    def merge(self, a: State, b: State) -> State:
        mean, apart, weight = merge_means(a, b)
        return {
            "tokens": a["tokens"] + b["tokens"],
            "mean": mean,
            "squares": b["squares"] + (a["squares"] + apart.square() * weight),
            "max": torch.maximum(a["max"], b["max"]),
        }

    def finalize(self, state: State) -> MomentsOf:
        tokens = int(state["tokens"])
        none = torch.nan if tokens == 0 else 1.0
        return MomentsOf(
            tokens,
            mean=state["mean"].double() * none,
            variance=state["squares"].double() / max(1, tokens) * none,
            max=state["max"].double(),
        )

    def check(self, state: State) -> None:
        if state["tokens"] < 0:
            raise SettingError("tokens is negative")
        if (state["squares"] < 0).any():
            raise SettingError("squares has negative sums of squares")


def merge_means(a: State, b: State) -> tuple[Tensor, Tensor, Tensor]:
    """The mean of two states, the step between their means, and its weight in sums of squares."""
    total = (a["tokens"] + b["tokens"]).clamp(min=1)
    apart = b["mean"] - a["mean"]
    share = b["tokens"].to(apart.dtype) / total
    return a["mean"] + apart * share, apart, a["tokens"] * share
