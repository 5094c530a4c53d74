"""What a pass over heads found of one statistic."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from arcee_lab.attention.rows import Reading
from arcee_lab.attention.statistics import Statistic
from arcee_lab.errors import SettingError
from arcee_lab.results import Result, counted
from arcee_lab.sites import head_name

if TYPE_CHECKING:
    from arcee_lab.views.figures.figure import Figure


@dataclass(frozen=True, repr=False)
class HeadStatistic(Result):
    """One statistic of the heads of some layers.

    Means are over attended tokens that have a choice of two keys or more: padding never counts, nor
    does a first token, which can only read itself.

    Attributes:
        statistic: The statistic that was computed.
        layers: The layers, in order.
        mean: For each layer and head; NaN where no token counts.
        n: How many tokens counted.
        readings: For each layer one reading per forward, if values per token were kept.
    """

    statistic: Statistic
    layers: tuple[int, ...]
    mean: Float[Tensor, "layer head"]
    n: Int[Tensor, "layer head"]
    readings: Mapping[int, list[Reading]]

    def values(self, layer: int) -> Tensor | list[Tensor]:
        """The number at each token, `[batch, head, q_pos]`; a list if there were several forwards.

        NaN at padding, and at tokens for which the statistic is not defined.
        """
        return self._all(layer, "value")

    def weights(self, layer: int) -> Tensor | list[Tensor]:
        """Weights of the strongest keys, `[batch, head, q_pos, chosen]`; 0 at padding."""
        return self._all(layer, "weights")

    def keys(self, layer: int) -> Tensor | list[Tensor]:
        """Their columns, the cache's included; -1 where there is none, and at padding."""
        return self._all(layer, "keys")

    def frame(self) -> pd.DataFrame:
        """One row per head: layer, head, the statistic's mean under its name, and N."""
        layers, heads = self.mean.shape
        return pd.DataFrame(
            {
                "layer": [layer for layer in self.layers for _ in range(heads)],
                "head": list(range(heads)) * layers,
                self.statistic.name: self.mean.flatten().numpy(),
                "n": self.n.flatten().numpy(),
            }
        )

    def figure(self, *, dark: bool = False) -> "Figure":
        """A map of the means, layer by head."""
        from arcee_lab.views.figures.attention_heads import head_map

        best = self.strongest
        said = "no token counts" if best is None else f"largest in {best[0]}, {best[1]:.2f}"
        mean = f"; mean of all heads {float(self.mean.nanmean()):.2f}" if best else ""
        label = self.statistic.label
        return head_map(
            self.mean.numpy(),
            [str(layer) for layer in self.layers],
            what=label,
            title=f"{label[0].upper()}{label[1:]}: {said}{mean} ({self._n})",
            dark=dark,
        )

    @property
    def panel(self) -> str:
        """The title of its map among others: what it measures, and the head with most of it."""
        best = self.strongest
        return self.statistic.label + ("" if best is None else f": {best[0]} {best[1]:.2f}")

    @property
    def strongest(self) -> tuple[str, float] | None:
        """The head with the largest mean, such as "L1/H3", and that mean; None without a token."""
        known = self.mean.nan_to_num(-torch.inf)
        row, head = divmod(int(known.argmax()), self.mean.shape[1])
        if not bool(self.n[row, head]):
            return None
        return head_name(self.layers[row], head), float(self.mean[row, head])

    @property
    def headline(self) -> str:
        """What was measured, of which heads, with N."""
        layers, heads = self.mean.shape
        return f"{self.statistic!r} of {layers} x {heads} heads ({self._n})"

    def _repr_html_(self) -> str:
        from arcee_lab.views.html import heat_table

        table = heat_table(
            self.mean.numpy(),
            [str(layer) for layer in self.layers],
            [str(head) for head in range(self.mean.shape[1])],
            corner="layer / head",
        )
        return f"<p>{self.statistic.label}, mean by head ({self._n})</p>{table}"

    @property
    def _n(self) -> str:
        low, high = int(self.n.min()), int(self.n.max())
        return f"N = {counted(low, 'token')}" if low == high else f"N = {low:,} to {high:,} tokens"

    def _all(self, layer: int, what: str) -> Tensor | list[Tensor]:
        if layer not in self.readings:
            raise SettingError(f"layer {layer} was not asked for; asked were {list(self.layers)}.")
        if not self.readings[layer]:
            raise SettingError("No values by token were kept: pass tokens=True.")
        found = [getattr(reading, what) for reading in self.readings[layer]]
        if found[0] is None:
            raise SettingError(f"{self.statistic!r} names no keys; ask for TopKeys.")
        return found[0] if len(found) == 1 else found
