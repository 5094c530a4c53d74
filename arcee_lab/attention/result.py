"""What a pass over heads found of one statistic."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from arcee_lab.attention.rows import Reading
from arcee_lab.attention.statistics import SHARE, Statistic
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
        even: What the mean would be if heads read all keys that they may read alike: the level of
            chance. Of shares of attention; NaN of others.
    """

    statistic: Statistic
    layers: tuple[int, ...]
    mean: Float[Tensor, "layer head"]
    n: Int[Tensor, "layer head"]
    readings: Mapping[int, list[Reading]]
    even: float = float("nan")

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
        mean += self._even
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
        """The title of its map among others: what it measures, the head with most, and chance."""
        best = self.strongest
        if best is None:
            return self.statistic.label
        return f"{self.statistic.label}: {best[0]} {best[1]:.2f}{self._even}"

    @property
    def over_half(self) -> int:
        """How many heads have a mean above one half: of a share, most of their attention."""
        return int((self.mean > 0.5).sum())

    @property
    def _even(self) -> str:
        return "" if math.isnan(self.even) else f"; even attention {self.even:.2f}"

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


def finding(found: Sequence[HeadStatistic]) -> str:
    """What several statistics of the same heads say: how many heads are above one half of a share.

    Some head is always the strongest, also of weights that have learnt nothing; one that gives over
    half of its attention to what a statistic marks is a finding.

    Args:
        found: One or more.
    """
    most = sorted({int(one.n.max()) for one in found})
    n = f"{most[0]:,}" if len(most) == 1 else f"{most[0]:,} to {most[-1]:,}"
    n = f"(N = {n} {'token' if most[-1] == 1 else 'tokens'})"
    known = [one for one in found if one.strongest is not None]
    if not known:
        return f"No token counts {n}"
    shares = [one for one in known if one.statistic.unit == SHARE]
    if not shares:
        label, low, high = known[0].statistic.label, *_ends(known[0])
        return f"{label[0].upper()}{label[1:]}: from {low} to {high} {n}"
    goals = [one.statistic.label.removeprefix("attention ") for one in shares]
    heads = shares[0].mean.numel()
    even = sorted({one.even for one in shares if not math.isnan(one.even)})
    chance = ""
    if even:
        ends = [f"{one:.0%}" for one in (even[0], even[-1])]
        chance = f"; even attention gives {' to '.join(dict.fromkeys(ends))}"
    if not any(one.over_half for one in shares):
        best = max(shares, key=lambda one: one.strongest[1] if one.strongest else 0.0)
        assert best.strongest is not None
        head, most_given = best.strongest
        return (
            f"None of {counted(heads, 'head')} gives half of its attention to what is marked; the "
            f"most is {most_given:.0%}, {head} {goals[shares.index(best)]}{chance} {n}"
        )
    told = ", ".join(
        f"{goal} in {one.over_half}"
        for goal, one in zip(goals, shares, strict=True)
        if one.over_half
    )
    many = counted(heads, "head")
    return f"Of {many}, over half of the attention goes {told}{chance} {n}"


def _ends(one: HeadStatistic) -> tuple[str, str]:
    """The smallest mean and the largest, with their heads."""
    flat = one.mean.flatten()
    ends = flat.nan_to_num(torch.inf).argmin(), flat.nan_to_num(-torch.inf).argmax()
    heads = one.mean.shape[1]
    low, high = (
        f"{float(flat[i]):.2f} ({head_name(one.layers[int(i) // heads], int(i) % heads)})"
        for i in ends
    )
    return low, high
