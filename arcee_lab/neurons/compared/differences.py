"""What `diff` found: one number per neuron and question."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from arcee_lab.data.token_words import token_word
from arcee_lab.errors import SettingError, UnknownName
from arcee_lab.neurons.ablation.named import Neuron
from arcee_lab.neurons.compared.ranking import best
from arcee_lab.results import Result, counted
from arcee_lab.sites import unit_name

if TYPE_CHECKING:
    from arcee_lab.views.figures.figure import Figure

RANKS = ("written", "rate", "reads", "writes", "effects")


@dataclass(frozen=True, repr=False)
class NeuronDiff(Result):
    """Every neuron of two checkpoints with one ancestor; tensors `[layer, d_mlp]`, on the CPU.

    Attributes:
        base: Name of the model before.
        tuned: Name of the model after.
        tokenizer: Shows tokens; None shows ids.
        n_tokens: N, the tokens counted; no first positions, no padding.
        fired_base: At how many of them each neuron fires in the base.
        fired_tuned: The same in the tuned model.
        fired_both: At how many it fires in both.
        written: Root mean square, over tokens, of the change in what each neuron writes.
        reads: Cosine of the two rows of `up_proj`.
        reads_norm: Norm of the row after, divided by that before.
        writes: Cosine of the two columns of `down_proj`.
        writes_norm: Norm of the column after, divided by that before.
        effects: Cosine of the two effects on all logits, see `al.neurons.effects`; NaN where a
            model is no language model.
        listed: Layer and unit of the neurons with the largest `written`, largest first.
        gained: Tokens whose logits the effect of each listed neuron gained most.
        lost: Tokens whose logits it lost most.
    """

    base: str
    tuned: str
    tokenizer: Any
    n_tokens: int
    fired_base: Int[Tensor, "layer d_mlp"]
    fired_tuned: Int[Tensor, "layer d_mlp"]
    fired_both: Int[Tensor, "layer d_mlp"]
    written: Float[Tensor, "layer d_mlp"]
    reads: Float[Tensor, "layer d_mlp"]
    reads_norm: Float[Tensor, "layer d_mlp"]
    writes: Float[Tensor, "layer d_mlp"]
    writes_norm: Float[Tensor, "layer d_mlp"]
    effects: Float[Tensor, "layer d_mlp"]
    listed: Int[Tensor, "neuron 2"]
    gained: Int[Tensor, "neuron token"]
    lost: Int[Tensor, "neuron token"]

    @property
    def rates(self) -> tuple[Float[Tensor, "layer d_mlp"], Float[Tensor, "layer d_mlp"]]:
        """Firing rates in the base and in the tuned model, fp64."""
        return self.fired_base.double() / self.n_tokens, self.fired_tuned.double() / self.n_tokens

    def change(self, by: str = "written") -> Float[Tensor, "layer d_mlp"]:
        """How much each neuron changed; 0 for one that did not.

        Args:
            by: "written"; "rate", the absolute change of the firing rate; "reads", "writes" or
                "effects", one minus the cosine.

        Raises:
            SettingError: Another word.
        """
        if by == "written":
            return self.written
        if by == "rate":
            before, after = self.rates
            return (after - before).abs()
        if by not in RANKS:
            raise SettingError(f"by={by!r}; expected one of {', '.join(RANKS)}.")
        return 1 - getattr(self, by)

    def top(self, k: int, *, by: str = "written") -> tuple[Neuron, ...]:
        """The k neurons that changed most, ties in the order of their numbers.

        Raises:
            SettingError: k out of range, another word, or effects that were not computed.
        """
        change = self.change(by)
        if bool(change.isnan().all()):
            raise SettingError(f"by={by!r} has no values: one of the models has no unembedding.")
        return best(change, k)

    @property
    def headline(self) -> str:
        """How much of the change the most changed neurons hold, and N."""
        squares = self.written.double().square().flatten()
        share = float(squares.topk(min(10, len(squares))).values.sum() / squares.sum())
        same = int((squares == 0).sum())
        held = (
            f"10 neurons hold {share:.0%} of the squared change" if squares.any() else "no change"
        )
        return (
            f"{self.base} and {self.tuned}: {held}, {same:,} of {len(squares):,} neurons write the "
            f"same (N = {self.n_tokens:,} tokens)"
        )

    def tokens(self, ids: Int[Tensor, " token"]) -> list[str]:
        """Token ids as they are shown."""
        if self.tokenizer is None:
            return [str(one) for one in ids.tolist()]
        return [token_word(self.tokenizer, one) for one in ids.tolist()]

    def frame(self, *, by: str = "written", most: int | None = 50) -> pd.DataFrame:
        """One row per neuron, the most changed first.

        Args:
            by: What ranks them, as for `change`.
            most: How many rows; None gives all.

        Returns:
            Layer, unit, all numbers, and for listed neurons the tokens gained and lost.
        """
        total = self.written.numel()
        chosen = torch.tensor(self.top(total if most is None else min(most, total), by=by))
        layer, unit = chosen.unbind(1)
        before, after = self.rates
        table = pd.DataFrame({"layer": layer.numpy(), "unit": unit.numpy()})
        for name, values in {
            "written": self.written,
            "rate_base": before,
            "rate_tuned": after,
            "only_base": self.fired_base - self.fired_both,
            "only_tuned": self.fired_tuned - self.fired_both,
            "reads": self.reads,
            "reads_norm": self.reads_norm,
            "writes": self.writes,
            "writes_norm": self.writes_norm,
            "effects": self.effects,
        }.items():
            table[name] = values[layer, unit].numpy()
        places = {tuple(one): place for place, one in enumerate(self.listed.tolist())}
        for name in ("gained", "lost"):
            ids = getattr(self, name)
            rows = [places.get(tuple(one)) for one in chosen.tolist()]
            table[name] = [
                "" if row is None else " ".join(map(str.strip, self.tokens(ids[row])))
                for row in rows
            ]
        table["n_tokens"] = self.n_tokens
        return table

    def row(self, layer: int, unit: int) -> pd.Series:
        """All numbers of one neuron.

        Raises:
            UnknownName: The models lack it.
        """
        layers, width = self.written.shape
        if not (0 <= layer < layers and 0 <= unit < width):
            raise UnknownName(
                f"{unit_name(layer, unit)} is not in the models; expected layers 0 to "
                f"{layers - 1} and units 0 to {width - 1}."
            )
        table = self.frame(most=None)
        return table[(table["layer"] == layer) & (table["unit"] == unit)].iloc[0]

    def figure(self, *, dark: bool = False) -> "Figure":
        """How much of the squared change the k most changed neurons hold."""
        from arcee_lab.views.figures.curves import Line, lines

        squares = self.written.double().square().flatten().sort(descending=True).values
        held = squares.cumsum(0) / squares.sum().clamp(min=torch.finfo(torch.float64).tiny)
        k = torch.arange(1, len(held) + 1)
        half = int((held < 0.5).sum()) + 1 if bool(held[-1] > 0) else 0
        return lines(
            [Line("", k.numpy(), held.numpy())],
            x="neurons, most changed first",
            y="share of the squared change",
            shares="y",
            title=f"{counted(half, 'neuron')} of {len(held):,} hold half of the squared change "
            f"from {self.base} to {self.tuned} (N = {self.n_tokens:,} tokens)",
            log_x=True,
            dark=dark,
        )
