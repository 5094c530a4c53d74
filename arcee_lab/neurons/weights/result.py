"""What `effects` found: one row per neuron."""

from dataclasses import dataclass
from typing import Any

import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from arcee_lab.data.token_words import token_word
from arcee_lab.errors import UnknownName
from arcee_lab.results import Result, counted
from arcee_lab.sites import unit_name


@dataclass(frozen=True, repr=False)
class Effects(Result):
    """Neurons and what their weights say; all tensors are on the CPU, with one row per neuron.

    Attributes:
        tokenizer: Shows tokens; None shows ids.
        layers: Layer of each neuron.
        units: Index of each neuron in its layer.
        promoted: Tokens whose logits it raises most, best first.
        promoted_by: By how much per unit of activation, before the final norm's scale.
        suppressed: Tokens whose logits it lowers most.
        suppressed_by: By how much.
        read: Tokens whose embeddings it reads best.
        read_by: Cosine with each.
        variance: Variance of its cosines with the unembedding.
        skew: Skew of these.
        kurtosis: Kurtosis of these, 3 for a normal distribution.
        norm: Squared lengths of what it reads and what it writes, added up.
        classes: "prediction", "suppression", "entropy", "partition" or "".
    """

    tokenizer: Any
    layers: Int[Tensor, " neuron"]
    units: Int[Tensor, " neuron"]
    promoted: Int[Tensor, "neuron top"]
    promoted_by: Float[Tensor, "neuron top"]
    suppressed: Int[Tensor, "neuron top"]
    suppressed_by: Float[Tensor, "neuron top"]
    read: Int[Tensor, "neuron top"]
    read_by: Float[Tensor, "neuron top"]
    variance: Float[Tensor, " neuron"]
    skew: Float[Tensor, " neuron"]
    kurtosis: Float[Tensor, " neuron"]
    norm: Float[Tensor, " neuron"]
    classes: tuple[str, ...]

    def row(self, layer: int, unit: int) -> int:
        """The row of one neuron.

        Raises:
            UnknownName: It is not among these.
        """
        found = ((self.layers == layer) & (self.units == unit)).nonzero().flatten().tolist()
        if not found:
            raise UnknownName(
                f"{unit_name(layer, unit)} is not among these {counted(len(self.units), 'neuron')};"
                " expected one of the layers and units that were asked for."
            )
        return found[0]

    def tokens(self, ids: Int[Tensor, " top"]) -> list[str]:
        """Token ids as they are shown."""
        if self.tokenizer is None:
            return [str(one) for one in ids.tolist()]
        return [token_word(self.tokenizer, one) for one in ids.tolist()]

    @property
    def headline(self) -> str:
        """How many neurons, and how many of each class."""
        kinds = ("prediction", "suppression", "entropy", "partition")
        shares = ", ".join(f"{self.classes.count(kind):,} {kind}" for kind in kinds)
        return f"{counted(len(self.units), 'neuron')}: {shares}"

    def frame(self, *, classes: str | None = None, most: int | None = None) -> pd.DataFrame:
        """One row per neuron: layer, unit, class, moments, and the tokens at both ends.

        Args:
            classes: Only neurons of this class.
            most: Only so many rows: those of the highest kurtosis.
        """
        table: Any = pd.DataFrame(
            {
                "layer": self.layers.numpy(),
                "unit": self.units.numpy(),
                "class": self.classes,
                "variance": self.variance.numpy(),
                "skew": self.skew.numpy(),
                "kurtosis": self.kurtosis.numpy(),
                "norm": self.norm.numpy(),
            }
        )
        if classes is not None:
            table = table[table["class"] == classes]
        if most is not None:
            table = table.nlargest(most, "kurtosis")
        for name in ("promoted", "suppressed", "read"):
            ids = getattr(self, name)
            table[name] = [" ".join(map(str.strip, self.tokens(ids[i]))) for i in table.index]
        return table.reset_index(drop=True)
