"""Row 18: which neurons of a layer fire together, and how few groups of them a token needs.

With m_i(t) = 1 where neuron i fires at token t, c_i = Σ_t m_i, C = MᵀM, over N tokens:

    phi_ij     = (N C_ij - c_i c_j) / sqrt(c_i (N - c_i) c_j (N - c_j))     correlation
    pmi_ij     = log2(N C_ij / (c_i c_j))                                   bits above chance
    jaccard_ij = C_ij / (c_i + c_j - C_ij)

Neurons are put into experts of equal size that fire together, as MoEfication does, by average
linkage on 1 - phi; the experts that hold 90 % of a token's active neurons, chosen by an oracle, say
how much of the layer it needs. Experts are made on half of the documents and tried on the others,
compared with random groups of the same size.

Sources: Zhang et al., "MoEfication", arXiv:2110.01786 (experts of equal size, share of neurons
selected); Xue et al., "PowerInfer-2", arXiv:2406.06282 (neuron clusters).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from arcee_lab.data.windows import Windows
from arcee_lab.errors import ModelError, SettingError, TextError
from arcee_lab.model.fingerprint import model_name
from arcee_lab.model.wrappers.offloaded import device_of
from arcee_lab.model.wrappers.unwrap import unwrap
from arcee_lab.results import Result
from arcee_lab.runs.arguments import checked
from arcee_lab.runs.progress import progress_bar
from arcee_lab.sparsity.sampled.mlp_hooks import at_down
from arcee_lab.sparsity.sampled.mlps import Mlp, mlps
from arcee_lab.sparsity.sampled.sample import draw

if TYPE_CHECKING:
    from arcee_lab.views.figures.figure import Figure

SKETCH = 2048  # neurons drawn where the layer has more: C takes 8 n² bytes
COVER = 0.9
EXPERTS = 16
MEASURES = ("phi", "pmi", "jaccard")
_SHOWN = 120  # neurons in the figure


@dataclass(frozen=True, repr=False)
class CoActivationResult(Result):
    """One layer's firing pattern, and what follows from it.

    Attributes:
        model: Name of the model.
        layer: The layer.
        neurons: The neurons that were looked at.
        fired: Which of them fired at each of N tokens; neither padding nor first positions.
        held_out: Tokens of the documents on which experts are tried, not made.
        seed: Random seed of the sample, of the neurons drawn, and of the random groups.
    """

    model: str
    layer: int
    neurons: Int[Tensor, " neuron"]
    fired: Bool[Tensor, "token neuron"]
    held_out: Bool[Tensor, " token"]
    seed: int

    @cached_property
    def counts(self) -> Int[Tensor, "neuron neuron"]:
        """C: at how many tokens both fired; on the diagonal, how often each did."""
        return _together(self.fired)

    def measure(self, name: str) -> Float[Tensor, "neuron neuron"]:
        """phi, pmi or jaccard of every pair; NaN where a neuron never (or, for phi, always) fires.

        Raises:
            ValueError: Another name.
        """
        if name not in MEASURES:
            raise SettingError(f"measure({name!r}): expected one of {', '.join(MEASURES)}.")
        together, n = self.counts.double(), len(self.fired)
        alone = together.diagonal()
        both = alone[:, None] * alone
        if name == "phi":
            return _phi(together, n)
        if name == "pmi":
            return (n * together / both).log2()
        return together / (alone[:, None] + alone - together)

    def frame(self, most: int = 50, by: str = "phi", least: int = 20) -> pd.DataFrame:
        """The pairs with the largest phi, pmi or jaccard, one row per pair.

        Args:
            most: Pairs to give.
            by: The measure that ranks them.
            least: Tokens at which each of the two fires at least: what fires once or twice meets
                others by luck, and would fill the list.
        """
        often = (self.counts.diagonal() >= least).nonzero()[:, 0]
        score = self.measure(by)[often][:, often].nan_to_num(-torch.inf)
        row, column = torch.triu_indices(*score.shape, offset=1)
        best = score[row, column].topk(min(most, len(row))).indices
        a, b = often[row[best]], often[column[best]]
        alone = self.counts.diagonal()
        return pd.DataFrame(
            {
                "unit_a": self.neurons[a].numpy(),
                "unit_b": self.neurons[b].numpy(),
                "together": self.counts[a, b].numpy(),
                "by_chance": (alone[a].double() * alone[b] / len(self.fired)).numpy(),
                **{name: self.measure(name)[a, b].numpy() for name in MEASURES},
                "n_tokens": len(self.fired),
            }
        )

    def experts(self, number: int = EXPERTS) -> Int[Tensor, " neuron"]:
        """An expert for each neuron, of equal sizes up to one, made without the held-out documents.

        Raises:
            ValueError: Fewer than one expert, or more than neurons.
        """
        if not 1 <= number <= len(self.neurons):
            raise SettingError(f"experts({number}): expected from 1 to {len(self.neurons)}.")
        return _dealt(self._order, number)

    def coverage(self, number: int | None = None, cover: float = COVER) -> pd.DataFrame:
        """How many experts hold a share of a token's active neurons, compared with random groups.

        Args:
            number: Experts; by default 16, or as many as neurons if fewer.
            cover: The share to hold.

        Returns:
            One row per grouping: mean and 95th percentile of experts needed, the share of the layer
            that is, and over how many held-out tokens.
        """
        rows = []
        number = self._usual if number is None else number
        for name, groups in self._groupings(number).items():
            held = self._held(groups)
            needed = 1 + (held < cover - 1e-9).sum(dim=1).double()
            mean = float(needed.mean())
            p95 = float(needed.quantile(0.95))
            rows.append((name, number, cover, mean, p95, mean / number, len(held)))
        names = ["experts", "number", "cover", "needed", "needed_p95", "share", "n_tokens"]
        return pd.DataFrame(rows, columns=names)

    @property
    def headline(self) -> str:
        """The result in one sentence, with its N."""
        made, lots = self.coverage()["needed"]
        return (
            f"{self.model}, layer {self.layer}: {made:.1f} of {self._usual} experts hold "
            f"{COVER:.0%} of a token's active neurons, random groups need {lots:.1f} "
            f"({len(self.neurons):,} neurons, N = {len(self.fired):,} tokens)"
        )

    def figure(self, *, dark: bool = False) -> "Figure":
        """Pairs of the neurons that fire most, ordered by expert, and what the experts hold."""
        from arcee_lab.views.figures.coactivation import together

        often = self.counts.diagonal().topk(min(_SHOWN, len(self.neurons))).indices
        rank = torch.empty_like(self._order)
        rank[self._order] = torch.arange(len(self._order))
        shown = often[rank[often].argsort()]
        held = {
            name: self._held(groups).mean(dim=0).numpy()
            for name, groups in self._groupings(self._usual).items()
        }
        made, lots = self.coverage()["needed"]
        return together(
            self.measure("phi")[shown][:, shown].fill_diagonal_(torch.nan).numpy(),
            held,
            cover=COVER,
            what="phi, the correlation of firing",
            title=f"Layer {self.layer}: {made:.1f} of {self._usual} groups of neurons hold "
            f"{COVER:.0%} of a token's active ones, random groups {lots:.1f} "
            f"(N = {len(self.fired):,} tokens)",
            dark=dark,
        )

    @property
    def _usual(self) -> int:
        return min(EXPERTS, len(self.neurons))

    @cached_property
    def _order(self) -> Int[Tensor, " neuron"]:
        """Neurons that fire together are adjacent; those of undefined correlation come last."""
        from scipy.cluster.hierarchy import leaves_list, linkage
        from scipy.spatial.distance import squareform

        seen = self.fired[~self.held_out]
        together = _together(seen).double()
        often = together.diagonal()
        known = ((often > 0) & (often < len(seen))).nonzero()[:, 0]
        rest = torch.ones(len(often), dtype=torch.bool)
        rest[known] = False
        if len(known) > 2:
            # Rounding can take a phi of 1 above it.
            distance = (1 - _phi(together[known][:, known], len(seen))).clamp(min=0).numpy()
            np.fill_diagonal(distance, 0)
            tree = linkage(squareform(distance, checks=False), "average")
            known = known[torch.from_numpy(leaves_list(tree).astype(np.int64))]
        return torch.cat([known, rest.nonzero()[:, 0]])

    def _groupings(self, number: int) -> dict[str, Tensor]:
        lots = torch.randperm(len(self.neurons), generator=torch.Generator().manual_seed(self.seed))
        return {"fire together": self.experts(number), "random": _dealt(lots, number)}

    def _held(self, groups: Int[Tensor, " neuron"]) -> Float[Tensor, "token n_experts"]:
        """The share of a held-out token's active neurons that its best 1, 2, ... experts hold."""
        fired = self.fired[self.held_out]
        active = fired[fired.any(dim=1)].float()
        per = active @ torch.nn.functional.one_hot(groups).float()
        return (
            per.sort(dim=1, descending=True).values.cumsum(dim=1) / active.sum(1)[:, None]
        ).double()


@checked
def coactivation(
    model: Any,
    tokenizer: Any,
    texts: Iterable[str] | Windows,
    layer: int,
    *,
    neurons: Sequence[int] | None = None,
    sample_tokens: int | None = None,
    batch_size: int = 8,
    context: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> CoActivationResult:
    """Which neurons of one layer fire together, on a sample of tokens.

    Args:
        model: A model whose MLPs are ungated relu or relu², any head.
        tokenizer: Its tokenizer.
        texts: Documents, or the windows that `arcee_lab.data.windows.cut` made of them.
        layer: The layer, from 0.
        neurons: Which to look at; by default all, or 2,048 drawn at random if there are more.
        sample_tokens: Size of the sample; None takes 4,096, or all there are if fewer.
        batch_size: Windows per forward pass.
        context: Longest window in tokens; by default 1,024, or what the model can read if less.
        seed: Random seed of the documents drawn, the neurons drawn, and the random groups.
        progress: Whether to show a bar.

    Raises:
        ValueError: A layer or neuron that the model lacks, fewer than two documents and windows,
            texts that hold too little, or NaN activations.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> texts = ["The dogs near the gate bark .", "Nipu likes olives."]
        >>> pairs = al.sparsity.coactivation(model, tokenizer, texts, 1)
        >>> int(pairs.counts[3, 3]) == int(pairs.fired[:, 3].sum())
        True
    """
    model = unwrap(model)
    chosen = one_mlp(model, layer)
    index = _neurons(neurons, chosen.d_mlp, seed)
    sample = draw(model, tokenizer, texts, sample_tokens=sample_tokens, context=context, seed=seed)
    if sample.n_groups < 2:
        raise TextError(
            "the texts make one window; experts need two documents or more: one to make them on, "
            "one to try them."
        )
    fired, groups = [], []
    here = index.to(device_of(model))
    for batch in progress_bar(
        sample.batches(batch_size, device_of(model)), show=progress, unit="batch"
    ):

        def see(layer: int, a: Tensor, u: Tensor, counted: Tensor = batch.counted) -> None:
            fired.append(a[counted].index_select(1, here))

        with torch.no_grad(), at_down([chosen], see):
            model.base_model(**batch.inputs)
        groups.append(batch.groups[:, None].expand_as(batch.ids)[batch.counted])
    values = torch.cat(fired)
    if bool(values.isnan().any()):
        raise ModelError(
            f"layer {layer} holds NaN; load the model in float32, or check its weights."
        )
    fires, held_out = (values != 0).cpu(), (torch.cat(groups) % 2 == 1).cpu()
    if not bool(fires[held_out].any()):
        raise TextError(
            f"No neuron of layer {layer} fires at any of the {int(held_out.sum()):,} tokens to try "
            "experts on; give more text, or another layer."
        )
    return CoActivationResult(
        model=model_name(model),
        layer=layer,
        neurons=index,
        fired=fires,
        held_out=held_out,
        seed=seed,
    )


def one_mlp(model: Any, layer: int) -> Mlp:
    """The MLP of one layer.

    Raises:
        ValueError: A layer that the model lacks.
    """
    found = mlps(model)
    if not 0 <= layer < len(found):
        raise SettingError(f"layer is {layer}; expected 0 to {len(found) - 1}.")
    return found[layer]


def _neurons(given: Sequence[int] | None, d_mlp: int, seed: int) -> Int[Tensor, " neuron"]:
    if given is None:
        if d_mlp <= SKETCH:
            return torch.arange(d_mlp)
        lots = torch.randperm(d_mlp, generator=torch.Generator().manual_seed(seed))
        return lots[:SKETCH].sort().values
    index = torch.tensor(list(given), dtype=torch.int64)
    if (
        len(index) < 2
        or index.min() < 0
        or index.max() >= d_mlp
        or len(index.unique()) < len(index)
    ):
        raise SettingError(
            f"neurons {list(given)[:8]}: expected two or more different ones from 0 to {d_mlp - 1}."
        )
    return index


def _together(fired: Bool[Tensor, "token neuron"]) -> Int[Tensor, "neuron neuron"]:
    # fp32 counts exactly to 2**24.
    parts = [part.float() for part in fired.split(2**23)]
    return sum((part.T @ part).long() for part in parts)  # type: ignore[return-value]


def _phi(together: Tensor, n: int) -> Tensor:
    alone = together.diagonal()
    spread = (alone * (n - alone)).sqrt()
    return (n * together - alone[:, None] * alone) / (spread[:, None] * spread)


def _dealt(order: Int[Tensor, " neuron"], number: int) -> Int[Tensor, " neuron"]:
    """The place of each neuron's group, when an order is cut into groups of equal size."""
    group = torch.empty_like(order)
    group[order] = torch.arange(len(order)) * number // len(order)
    return group
