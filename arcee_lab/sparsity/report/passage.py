"""A few neurons on a few words: the counts made visible, one firing at a time."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from arcee_lab.data.token_words import token_word
from arcee_lab.data.tokenization import token_ids
from arcee_lab.errors import TextError
from arcee_lab.model.anatomy import anatomy_of
from arcee_lab.model.wrappers.adapters import effective_weight
from arcee_lab.model.wrappers.offloaded import device_of
from arcee_lab.model.wrappers.unwrap import unwrap
from arcee_lab.recording.capturing import capture
from arcee_lab.results import Result, counted
from arcee_lab.runs.arguments import checked
from arcee_lab.sites import unit_name
from arcee_lab.sparsity.report.report import SparsityReport
from arcee_lab.views.figures.drawing.series import spread

if TYPE_CHECKING:
    import pandas as pd

    from arcee_lab.views.figures.figure import Figure

LONGEST = 48  # tokens that fit below a figure
MOST_ROWS = 48  # neurons that fit next to it
FEWEST = 3  # neurons of each layer that is shown
OFTEN = 0.25  # a neuron that fires on more of the passage says little about any word


@dataclass(frozen=True, repr=False)
class Passage(Result):
    """One passage, read neuron by neuron.

    Attributes:
        tokens: The tokens, as text.
        layers: The layer of each chosen neuron.
        neurons: Its number within the layer.
        values: relu(u)² of each chosen neuron at each token.
        rates: How often each chosen neuron fires over the texts that were measured.
        active: Neurons that fire at each token, by layer: all of them, not the chosen ones.
        d_mlp: Neurons per layer.
    """

    tokens: tuple[str, ...]
    layers: tuple[int, ...]
    neurons: tuple[int, ...]
    values: Float[Tensor, "neuron pos"]
    rates: tuple[float, ...]
    active: Int[Tensor, "layer pos"]
    d_mlp: int

    @property
    def headline(self) -> str:
        """The passage in one sentence, with its N."""
        shown = counted(len(self.neurons), "neuron")
        return f"N = {counted(len(self.tokens), 'token')}, {shown} of {self._layers}"

    @property
    def _layers(self) -> str:
        """How many layers the chosen neurons are of, and of how many."""
        chosen, there = len(set(self.layers)), len(self.active)
        return f"{there} layers" if chosen == there else f"{chosen} of {there} layers"

    def frame(self) -> "pd.DataFrame":
        """One row per chosen neuron: layer, unit, rate, and the token and value of its peak."""
        import pandas as pd

        value, where = self.values.max(dim=1)
        return pd.DataFrame(
            {
                "layer": self.layers,
                "unit": self.neurons,
                "rate": self.rates,
                "position": where.numpy(),
                "token": [self.tokens[place] for place in where.tolist()],
                "value": value.float().numpy(),
            }
        )

    def figure(self, *, dark: bool = False) -> "Figure":
        """Chosen neurons against tokens; blank means exactly zero."""
        from arcee_lab.views.figures.raster import raster

        return raster(
            self.values.float().numpy(),
            self.tokens,
            [unit_name(*pair) for pair in zip(self.layers, self.neurons, strict=True)],
            groups=[str(layer) for layer in self.layers],
            notes=[f"{rate:.1%}" for rate in self.rates],
            title=f"{counted(len(self.neurons), 'neuron')} of {self._layers} fire at "
            f"{float((self.values > 0).double().mean()):.0%} of these "
            f"{counted(len(self.tokens), 'token')}; right: how often over all the text",
            dark=dark,
        )

    def figure_layers(self, *, dark: bool = False) -> "Figure":
        """Layer by token: the share of all neurons of a layer that fire at each word."""
        from arcee_lab.views.figures.curves import grid

        share = self.active.numpy() / self.d_mlp
        low, high = float(share.min()), float(share.max()) or 1.0
        return grid(
            share,
            rows=[str(layer) for layer in range(len(share))],
            columns=self.tokens,
            x="token",
            y="layer",
            what="share of neurons that fire",
            title=f"A token uses {share.min():.1%} to {share.max():.1%} of a layer's neurons "
            f"(N = {counted(len(self.tokens), 'token')})",
            limits=(low if low > 0.5 * high else 0, high),
            dark=dark,
        )

    def strip(self, layer: int, *, legend: bool = True) -> str:
        """The passage as HTML, each token coloured by the share of a layer's neurons that fire.

        Args:
            layer: From 0. All layers of a passage have one scale.
            legend: Whether the scale is shown above.
        """
        from arcee_lab.views.html import token_strip

        return token_strip(
            self.tokens,
            self.active[layer] / self.d_mlp,
            limit=float(self.active.max()) / self.d_mlp,
            what="share of neurons that fire",
            legend=legend,
        )

    def _repr_html_(self) -> str:
        return "".join(
            f"<p>layer {n}</p>{self.strip(n, legend=n == 0)}" for n in range(len(self.active))
        )


@checked
def read_passage(
    model: Any,
    tokenizer: Any,
    ids: Int[Tensor, " pos"] | str,
    report: SparsityReport,
    *,
    per_layer: int | None = None,
) -> Passage:
    """Reads one short passage and picks the neurons that say most about it.

    Picked are neurons that fire on at most a quarter of the passage and of the measured texts,
    those first that write most to the residual stream there: the largest relu(u)² times the norm of
    the neuron's column of down_proj. At most two neurons per layer peak at the same token.

    Args:
        model: An Arcee model, any head.
        tokenizer: Its tokenizer.
        ids: Text, or token ids; the first 48 tokens are read.
        report: What was measured on this model; it says how often each neuron fires.
        per_layer: Neurons to pick in each layer; by default 6, and 3 where there are many layers.
            At most 48 are shown: of many layers some, at even distances, the first and last too.

    Raises:
        ValueError: A passage of fewer than two tokens.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> text = "The lamp above the doors finds the red king."
        >>> report = al.sparsity.measure(model, tokenizer, [text])
        >>> passage = al.sparsity.read_passage(model, tokenizer, text, report)
        >>> passage.tokens[2]
        ' lamp'
    """
    if isinstance(ids, str):
        ids = torch.tensor(token_ids(tokenizer, [ids])[0])
    ids = ids[:LONGEST]
    if len(ids) < 2:
        raise TextError(f"the passage has {len(ids)} token; expected at least 2.")
    model = unwrap(model)
    with torch.no_grad(), capture(model, "layers.*.mlp.hook_post") as acts:
        model(input_ids=ids[None].to(device_of(model)), use_cache=False)
    layers, neurons, values, active = [], [], [], []
    blocks = anatomy_of(model).backbone.layers
    most = per_layer or max(FEWEST, min(6, MOST_ROWS // len(blocks)))
    shown = spread(len(blocks), max(1, MOST_ROWS // most))
    for layer, block in enumerate(blocks):
        down_proj: Any = unwrap(block).get_submodule("mlp.down_proj")
        post = acts[f"layers.{layer}.mlp.hook_post"][0].float().cpu()
        active.append((post > 0).sum(-1))
        if layer not in shown:
            continue
        writes = effective_weight(down_proj).float().norm(dim=0).cpu()
        for neuron in _pick(post, writes, report.rates[layer], most):
            layers.append(layer)
            neurons.append(neuron)
            values.append(post[:, neuron])
    return Passage(
        tokens=tuple(token_word(tokenizer, token) for token in ids.tolist()),
        layers=tuple(layers),
        neurons=tuple(neurons),
        values=torch.stack(values) if values else torch.zeros(0, len(ids)),
        rates=tuple(report.rates[layers, neurons].tolist()),
        active=torch.stack(active),
        d_mlp=report.fired.shape[1],
    )


def _pick(
    post: Float[Tensor, "pos d_mlp"],
    writes: Float[Tensor, " d_mlp"],
    rates: Float[Tensor, " d_mlp"],
    most: int,
) -> list[int]:
    """Neurons by what they write at their peak, returned in the order of their peaks."""
    peak, where = post[1:].max(dim=0)  # the first position is unlike the others
    rare = ((post > 0).float().mean(dim=0) <= OFTEN) & (rates <= OFTEN) & (peak > 0)
    size = torch.where(rare, peak * writes, 0.0)
    picked: list[int] = []
    for neuron in size.argsort(descending=True).tolist():
        if len(picked) == most or size[neuron] == 0:
            break
        if sum(where[neuron] == where[other] for other in picked) < 2:
            picked.append(neuron)
    return sorted(picked, key=lambda neuron: (int(where[neuron]), neuron))
