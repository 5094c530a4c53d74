"""Mean and covariance of a site's vector."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from arcee_lab.errors import SettingError
from arcee_lab.reducers.moments import merge_means
from arcee_lab.reducers.reducer import Reducer, State
from arcee_lab.reducers.running.chunks import pieces, wide
from arcee_lab.reducers.running.result import ReducerResult, unit_columns

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class Covariance(ReducerResult):
    """Mean and covariance of a vector; NaN where no token was counted.

    Attributes:
        tokens: N, the tokens that were counted.
        mean: Over the N tokens.
        covariance: Over the N tokens, divided by N.
    """

    tokens: int
    mean: Float[Tensor, " d"]
    covariance: Float[Tensor, "d d"]

    def principal(self, k: int = 10) -> tuple[Float[Tensor, " k"], Float[Tensor, "k d"]]:
        """The k directions of largest variance: their variances, falling, and unit vectors."""
        variances, directions = torch.linalg.eigh(self.covariance)
        return variances.flip(0)[:k], directions.flip(1).t()[:k]

    @property
    def dimensions(self) -> float:
        """Participation ratio (Σλ)² / Σλ²: d if all directions vary alike, 1 if only one does."""
        trace = self.covariance.diagonal().sum()
        return float(trace.square() / self.covariance.square().sum())

    @property
    def headline(self) -> str:
        return (
            f"N = {self.tokens:,} tokens, |mean| {self.mean.norm():.4g}, spread over "
            f"{self.dimensions:.1f} of {len(self.mean):,} dimensions"
        )

    def frame(self) -> "pd.DataFrame":
        """One row per dimension: unit, mean, std, n_tokens."""
        import pandas as pd

        return pd.DataFrame(
            unit_columns(tuple(self.mean.shape))
            | {
                "mean": self.mean.numpy(),
                "std": self.covariance.diagonal().sqrt().numpy(),
                "n_tokens": self.tokens,
            }
        )


@dataclass(frozen=True)
class MeanCovariance(Reducer):
    """Mean and covariance of a site without heads, such as the residual stream.

    Sums are fp64 around the mean of each piece, put together as those of `Moments`. The state
    takes 8 d² bytes.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> batch = tokenizer(["The dogs near the barn sleep ."], return_tensors="pt")
        >>> requests = {"layers.*.hook_resid_post": al.reducers.MeanCovariance()}
        >>> with al.capture(model, requests) as stats:
        ...     output = model(**batch)
        >>> variances, directions = stats["layers.0.hook_resid_post"].principal(2)
        >>> directions.shape[0]
        2
    """

    def init(self, shape: tuple[int, ...], device: torch.device) -> State:
        if len(shape) != 1:
            raise SettingError(f"MeanCovariance takes a site without heads; this one is {shape}.")
        size, dtype = shape[0], wide(device)
        return {
            "tokens": torch.zeros((), dtype=torch.int64, device=device),
            "mean": torch.zeros(size, dtype=dtype, device=device),
            "products": torch.zeros(size, size, dtype=dtype, device=device),
        }

    def update(
        self,
        state: State,
        x: Float[Tensor, "batch pos d"],
        token_mask: Bool[Tensor, "batch pos"],
        **asked: Any,
    ) -> None:
        dtype = state["mean"].dtype
        # To merge d² numbers costs as much as a product over hundreds of tokens; with d of them a
        # piece takes no more memory than the state.
        for piece, mask in pieces(x, token_mask, least=x.shape[-1]):
            count = mask.sum()
            values = torch.where(mask[:, None], piece, 0.0).to(dtype)
            mean = values.sum(0) / count.clamp(min=1)
            apart = (values - mean) * mask[:, None]
            batch = {"tokens": count, "mean": mean, "products": apart.t() @ apart}
            for name, value in self.merge(state, batch).items():
                state[name].copy_(value)

    def merge(self, a: State, b: State) -> State:
        mean, apart, weight = merge_means(a, b)
        products = torch.outer(apart, apart) * weight
        return {
            "tokens": a["tokens"] + b["tokens"],
            "mean": mean,
            "products": b["products"] + (a["products"] + products),
        }

    def finalize(self, state: State) -> Covariance:
        tokens = int(state["tokens"])
        none = torch.nan if tokens == 0 else 1.0
        products = state["products"].double()
        return Covariance(
            tokens,
            mean=state["mean"].double() * none,
            covariance=(products + products.t()) / 2 / max(1, tokens) * none,
        )

    def check(self, state: State) -> None:
        if state["tokens"] < 0:
            raise SettingError("tokens is negative")
        if (state["products"].diagonal() < 0).any():
            raise SettingError("products has negative squares")
