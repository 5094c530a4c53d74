"""What `ablate` and `ablation_estimate` found."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from arcee_lab.bootstrap import ratio_interval
from arcee_lab.neurons.ablation.named import Neuron
from arcee_lab.results import Result, counted


@dataclass(frozen=True, repr=False)
class Ablations(Result):
    """What changes without neurons, each set on its own. Numbers are nats per predicted token.

    Attributes:
        sets: The neurons of each set.
        how: "zero", "mean" or "resample".
        nll: Sums over each document: NLL with the set ablated.
        kl: Sums over each document: KL divergence from the model's own prediction.
        base: Sums over each document: NLL of the model as it is.
        tokens: Predicted tokens of each document.
    """

    sets: tuple[tuple[Neuron, ...], ...]
    how: str
    nll: Float[np.ndarray, "set document"]
    kl: Float[np.ndarray, "set document"]
    base: Float[np.ndarray, " document"]
    tokens: Int[np.ndarray, " document"]

    @property
    def names(self) -> tuple[str, ...]:
        """Each set as people read it."""
        return tuple(" ".join(str(neuron) for neuron in some) for some in self.sets)

    @property
    def nll_change(self) -> Float[np.ndarray, " set"]:
        """NLL per token with the set ablated, minus that of the model."""
        return (self.nll - self.base).sum(axis=1) / self.tokens.sum()

    @property
    def kl_change(self) -> Float[np.ndarray, " set"]:
        """KL divergence per token."""
        return self.kl.sum(axis=1) / self.tokens.sum()

    @property
    def headline(self) -> str:
        """How many sets, on how many tokens, and which matters most."""
        most = int(np.argmax(self.nll_change))
        name = self.names[most]
        name = name if len(name) < 40 else f"a set of {len(self.sets[most])} neurons"
        return (
            f"{counted(len(self.sets), 'ablation')} ({self.how}) on "
            f"{counted(int(self.tokens.sum()), 'token')} of "
            f"{counted(len(self.tokens), 'document')}: without {name} the NLL changes most, by "
            f"{self.nll_change[most]:+.3g} nats per token"
        )

    def frame(self) -> pd.DataFrame:
        """One row per set: neurons, change of NLL and KL with their 95 % intervals, tokens."""
        changes = np.concatenate([self.nll - self.base, self.kl]).T
        low, high = ratio_interval(changes, self.tokens)
        n = len(self.sets)
        return pd.DataFrame(
            {
                "neurons": self.names,
                "NLL change": self.nll_change,
                "NLL low": low[:n],
                "NLL high": high[:n],
                "KL": self.kl_change,
                "KL low": low[n:],
                "KL high": high[n:],
                "tokens": int(self.tokens.sum()),
            }
        )


@dataclass(frozen=True, repr=False)
class AblationEstimate(Result):
    """How the NLL would change without each neuron, to first order, in nats per token.

    Attributes:
        layers: The layers, in the order of the first axis below.
        how: "zero" or "mean".
        change: The estimate of each neuron.
        tokens: Predicted tokens.
    """

    layers: tuple[int, ...]
    how: str
    change: Float[Tensor, "layer d_mlp"]
    tokens: int

    def top(self, k: int = 20) -> list[Neuron]:
        """The neurons with the largest changes in either direction, for `al.neurons.ablate`."""
        width = self.change.shape[1]
        order = self.change.abs().flatten().topk(min(k, self.change.numel())).indices
        return [Neuron(self.layers[i // width], i % width) for i in order.tolist()]

    @property
    def headline(self) -> str:
        """How many neurons, and the largest estimate."""
        first = self.top(1)[0]
        value = float(self.change[self.layers.index(first.layer), first.unit])
        return (
            f"{counted(self.change.numel(), 'neuron')} on {counted(self.tokens, 'token')}: "
            f"without {first} ({self.how}) the NLL would change most, by {value:+.3g} nats per "
            "token"
        )

    def frame(self, *, most: int = 100) -> pd.DataFrame:
        """One row per neuron, those with the largest changes first.

        Args:
            most: How many rows.
        """
        rows = [
            (n.layer, n.unit, float(self.change[self.layers.index(n.layer), n.unit]))
            for n in self.top(most)
        ]
        return pd.DataFrame(rows, columns=["layer", "unit", "estimate"])
