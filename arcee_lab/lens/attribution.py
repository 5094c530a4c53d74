"""A logit as a sum: of the embedding, heads, MLPs and neurons."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from arcee_lab.errors import SettingError
from arcee_lab.results import Result, counted
from arcee_lab.sites import head_name, unit_name

if TYPE_CHECKING:
    from arcee_lab.views.figures.figure import Figure


@dataclass(frozen=True, repr=False)
class Attribution(Result):
    """Direct logit attribution, in units of the logit.

    Attributes:
        target: Whose logit.
        labels: Of the parts: "embed", "L0/attn", "L0/mlp", ...
        parts: What each of them adds; with `head_bias` they add up to the logit.
        heads: What each head adds; with `attn_bias` they add up to the attention's part.
        attn_bias: What the bias of `o_proj` adds, 0 without one.
        neurons: What each neuron adds, None unless asked for; with `mlp_bias` they add up to the
            MLP's part.
        mlp_bias: What the bias of `down_proj` adds, 0 without one.
        head_bias: What the bias of the head adds, 0 without one.
        logit: The logit, from the last residual stream.
        scale: The final norm's multiplier at that token.
        tokens: The tokens at which it was read.
        columns: Their columns in the batch.
        there: Whether the prompt has that token; numbers of others are NaN.
        text: Texts of the tokens.
    """

    target: str
    labels: tuple[str, ...]
    parts: Float[Tensor, "part batch chosen"]
    heads: Float[Tensor, "layer head batch chosen"]
    attn_bias: Float[Tensor, "layer batch chosen"]
    neurons: Float[Tensor, "layer batch chosen d_mlp"] | None
    mlp_bias: Float[Tensor, "layer batch chosen"]
    head_bias: Float[Tensor, "batch chosen"]
    logit: Float[Tensor, "batch chosen"]
    scale: Float[Tensor, "batch chosen"]
    tokens: Int[Tensor, "batch chosen"]
    columns: Int[Tensor, "batch chosen"]
    there: Bool[Tensor, "batch chosen"]
    text: Mapping[int, str]

    @property
    def remainder(self) -> Float[Tensor, "batch chosen"]:
        """The logit minus all parts: rounding, and what interventions put into the stream."""
        return self.logit - self.parts.sum(dim=0) - self.head_bias

    def frame(self) -> pd.DataFrame:
        """One row per part, head and token: label, layer, head, what it adds to the logit.

        Rows of heads are parts of the row of their attention, whose head is missing; so do not add
        up all rows.
        """
        rows: list[tuple] = []
        parts = self.parts.numpy()
        heads = self.heads.numpy()
        for batch, chosen in self.there.nonzero().tolist():
            at = (batch, int(self.columns[batch, chosen]))
            at = (*at, self.text[int(self.tokens[batch, chosen])])
            for number, label in enumerate(self.labels):
                layer = None if number == 0 else (number - 1) // 2
                rows.append((*at, label, layer, None, parts[number, batch, chosen]))
                if label.endswith("attn"):
                    rows += [
                        (*at, head_name(layer or 0, head), layer, head, value)
                        for head, value in enumerate(heads[layer, :, batch, chosen])
                    ]
        names = ["sequence", "position", "token", "label", "layer", "head", "logit"]
        table = pd.DataFrame(rows, columns=names)
        return table.astype({"layer": "Int64", "head": "Int64"})

    def top_neurons(self, k: int = 10) -> pd.DataFrame:
        """The k neurons that add most in size, by mean over all tokens: label, layer, unit, logit.

        Raises:
            SettingError: The call had no `by="neuron"`, or there are fewer neurons.
        """
        if self.neurons is None:
            raise SettingError("No neurons were attributed: ask for by='neuron'.")
        mean = self.neurons.flatten(1, 2).nanmean(dim=1)  # [layer, d_mlp]
        if not 1 <= k <= mean.numel():
            raise SettingError(f"k={k}; expected 1 to {mean.numel()}, the number of neurons.")
        order = mean.abs().flatten().argsort(descending=True, stable=True)[:k]
        layers, units = order // mean.shape[1], order % mean.shape[1]
        pairs = list(zip(layers.tolist(), units.tolist(), strict=True))
        return pd.DataFrame(
            {
                "label": [unit_name(layer, unit) for layer, unit in pairs],
                "layer": layers.numpy(),
                "unit": units.numpy(),
                "logit": mean.flatten()[order].numpy(),
            }
        )

    def figure(self, *, what: str = "heads", dark: bool = False) -> "Figure":
        """A map of what is added, mean over prompts and tokens: layers down, heads and MLP across.

        Args:
            what: "heads", or "parts" for embedding, attention and MLP alone.
            dark: For a dark page.

        Raises:
            SettingError: For another word.
        """
        from arcee_lab.views.figures.effects import effect_map

        if what not in ("heads", "parts"):
            raise SettingError(f"what={what!r}; expected 'heads' or 'parts'.")
        mean = self.parts.flatten(1).nanmean(dim=1)
        attn, mlp = mean[1::2, None], mean[2::2, None]
        layers, heads = self.heads.shape[:2]
        if what == "heads":
            values = torch.cat([self.heads.flatten(2).nanmean(dim=2), mlp], dim=1)
            columns, across = [*map(str, range(heads)), "MLP"], "head, and MLP"
        else:
            values, columns, across = torch.cat([attn, mlp], dim=1), ["attention", "MLP"], ""
        rows = [str(layer) for layer in range(layers)]
        row, column = divmod(int(values.abs().nan_to_num().argmax()), len(columns))
        kind = columns[column] if columns[column].isalpha() else f"head {columns[column]}"
        most, logit, embed = (
            f"{float(x):.2f}".replace("-0.00", "0.00")
            for x in (values[row, column], self.logit.nanmean(), mean[0])
        )
        target = self.target.strip().replace(" - ", " minus ")
        return effect_map(
            values.numpy(),
            rows,
            columns,
            across=across,
            down="layer",
            what="added to the logit",
            title=f"The {kind} of layer {row} adds most in size to the logit of "
            f"“{target}”: {most} of {logit}, the embedding {embed} "
            f"(N = {counted(int(self.there.sum()), 'token')})",
            dark=dark,
        )

    @property
    def headline(self) -> str:
        """The logit, and the largest parts."""
        mean = self.parts.flatten(1).nanmean(dim=1)
        largest = mean.abs().argsort(descending=True, stable=True)[:3].tolist()
        words = ", ".join(f"{self.labels[i]} {float(mean[i]):+.2f}" for i in largest)
        n = counted(int(self.there.sum()), "token")
        return f"Logit of {self.target!r}: {float(self.logit.nanmean()):.2f} (N = {n}); {words}"
