"""The residual stream as labelled vectors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
from jaxtyping import Bool, Float, Int
from torch import Tensor

from arcee_lab.results import Result, counted

if TYPE_CHECKING:
    from arcee_lab.views.figures.figure import Figure


@dataclass(frozen=True, repr=False)
class Decomposition(Result):
    """What the residual stream at a site is made of, in fp32 on the CPU.

    Attributes:
        site: Where.
        norm: The norm that reads the stream there.
        labels: Of the parts, in the order in which they are added.
        parts: The vectors.
        stream: What the model had there; the parts add up to it, but for rounding.
        scale: The norm's multiplier in this run.
        gain: The norm's weight.
        tokens: The tokens that were read at.
        columns: Their columns in the batch.
        there: Whether the prompt has that token; numbers of others are NaN.
        text: Texts of the tokens.
    """

    site: str
    norm: str
    labels: tuple[str, ...]
    parts: Float[Tensor, "part batch chosen d_model"]
    stream: Float[Tensor, "batch chosen d_model"]
    scale: Float[Tensor, "batch chosen 1"]
    gain: Float[Tensor, " d_model"]
    tokens: Int[Tensor, "batch chosen"]
    columns: Int[Tensor, "batch chosen"]
    there: Bool[Tensor, "batch chosen"]
    text: Mapping[int, str]

    @property
    def remainder(self) -> Float[Tensor, "batch chosen d_model"]:
        """The stream minus all parts: rounding, and what interventions put into it."""
        return self.stream - self.parts.sum(dim=0)

    def accumulated(self) -> Float[Tensor, "part batch chosen d_model"]:
        """The stream after each part was added."""
        return self.parts.cumsum(dim=0)

    def normalised(self, parts: Tensor | None = None) -> Tensor:
        """Parts as the norm passes them on: times its scale in this run, times its gain.

        They add up to the output of the norm.

        Args:
            parts: Vectors `[..., batch, chosen, d_model]`; by default the parts.
        """
        return (self.parts if parts is None else parts) * self.scale * self.gain

    def frame(self) -> pd.DataFrame:
        """One row per part and token: its length, and its share of the stream.

        The share is the part's product with the stream over that of the stream with itself; shares
        add up to 1, and may be below 0 or above 1.
        """
        lengths = self.parts.norm(dim=-1)
        squares = self.stream.square().sum(dim=-1)
        shares = (self.parts * self.stream).sum(dim=-1) / squares
        rows = [
            (
                sequence,
                int(self.columns[sequence, chosen]),
                self.text[int(self.tokens[sequence, chosen])],
                label,
                float(lengths[number, sequence, chosen]),
                float(shares[number, sequence, chosen]),
            )
            for sequence, chosen in self.there.nonzero().tolist()
            for number, label in enumerate(self.labels)
        ]
        names = ["sequence", "position", "token", "label", "length", "share"]
        return pd.DataFrame(rows, columns=names)

    def figure(self, *, dark: bool = False) -> "Figure":
        """Each part's share of the stream, mean over tokens: parts down.

        Args:
            dark: For a dark page.
        """
        from arcee_lab.views.figures.effects import effect_map

        return effect_map(
            self._shares()[:, None].numpy(),
            list(self.labels),
            [""],
            across="",
            down="part",
            what="share of the stream",
            title=self._finding,
            dark=dark,
        )

    @property
    def headline(self) -> str:
        """Where, how many parts, and the largest share."""
        return f"{self.site} as {counted(len(self.labels), 'part')}: {self._finding}"

    @property
    def _finding(self) -> str:
        shares = self._shares()
        best = int(shares.abs().argmax())
        n = counted(int(self.there.sum()), "token")
        return (
            f"{self.labels[best]} has the largest share of {self.site}, {float(shares[best]):.2f} "
            f"(N = {n})"
        )

    def _shares(self) -> Float[Tensor, " part"]:
        """The mean share of each part, over all tokens."""
        products = (self.parts * self.stream).sum(dim=-1) / self.stream.square().sum(dim=-1)
        return products.flatten(1).nanmean(dim=1)
