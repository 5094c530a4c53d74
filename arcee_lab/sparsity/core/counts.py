"""The counts of the core, and the rates that follow from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from arcee_lab.sparsity.core.state import State


@dataclass(frozen=True, eq=False)
class CoreCounts:
    """What fired where, at every token that counts: neither padding nor a first position.

    Attributes:
        state: As `every_token` filled it.
    """

    state: State

    @property
    def n_tokens(self) -> int:
        """N, the tokens counted; neither padding nor first positions."""
        return int(self.state["tokens"][0])

    @property
    def n_first(self) -> int:
        """First positions, counted separately."""
        return int(self.state["first"][0])

    @property
    def fired(self) -> Int[Tensor, "layer d_mlp"]:
        """Of the N tokens, on how many each neuron fired (a > 0)."""
        return self.state["fired"]

    @property
    def fired_first(self) -> Int[Tensor, "layer d_mlp"]:
        """Of the first positions, on how many each neuron fired."""
        return self.state["fired_first"]

    @property
    def active(self) -> Int[Tensor, "layer n_active"]:
        """`active[l, n]` is the number of tokens on which exactly n neurons of layer l fired."""
        return self.state["active"]

    @property
    def rates(self) -> Float[Tensor, "layer d_mlp"]:
        """The share of the N tokens on which each neuron fires."""
        return self.fired.double() / self.n_tokens

    @property
    def zeros(self) -> Float[Tensor, " layer"]:
        """The share of exact zeros among each layer's activations."""
        return 1 - self.rates.mean(dim=1)

    @property
    def zeros_first(self) -> Float[Tensor, " layer"]:
        """The share of exact zeros at first positions, which models treat unlike any other."""
        return 1 - (self.fired_first.double() / self.n_first).mean(dim=1)

    @property
    def dead(self) -> Int[Tensor, " layer"]:
        """Neurons that fired on none of the N tokens; first positions do not count here either.

        With 95 % confidence each of them fires on less than 3/N of tokens.

        The bound is the rule of three: Hanley and Lippman-Hand, "If nothing goes wrong, is
        everything all right?", JAMA 249 (1983).
        """
        return (self.fired == 0).sum(dim=1)

    @property
    def sized(self) -> Int[np.ndarray, "layer bin"]:
        """Activations above 0 by size, in the bins of `magnitudes`."""
        return self.state["sized"].numpy()

    def quantiles(self, share: float) -> Int[Tensor, " layer"]:
        """By layer, the number of active neurons that this share of tokens does not exceed."""
        reached = self.active.cumsum(dim=1) >= share * self.n_tokens
        return reached.int().argmax(dim=1)

    @property
    def correlation(self) -> np.ndarray:
        """Pearson's correlation of the layers' active neurons over all N tokens."""
        n = self.n_tokens
        sizes = np.arange(self.active.shape[1], dtype=np.float64)
        mean = self.active.numpy() @ sizes / n
        covariance = self.state["products"].numpy() / n - np.outer(mean, mean)
        spread = np.sqrt(np.maximum(np.diag(covariance), 0))
        with np.errstate(divide="ignore", invalid="ignore"):
            found = covariance / np.outer(spread, spread)
        return np.where(np.outer(spread, spread) > 0, np.clip(found, -1, 1), np.nan)


@runtime_checkable
class Counted(Protocol):
    """A report, as far as comparisons read it."""

    @property
    def label(self) -> str: ...
    @property
    def counts(self) -> CoreCounts: ...
    @property
    def states(self) -> Mapping[str, State]: ...
