"""`transplant_attribution`: what the transplant of each neuron would do, estimated for all."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from arcee_lab.errors import SettingError
from arcee_lab.interventions import Replace, intervene
from arcee_lab.neurons.ablation.named import Neuron
from arcee_lab.neurons.compared.pair import ModelPair, weights_of
from arcee_lab.neurons.compared.prompts import Prompts
from arcee_lab.neurons.compared.ranking import best
from arcee_lab.neurons.weights.projection import wide
from arcee_lab.recording.capturing import capture
from arcee_lab.results import Result, counted


@dataclass(frozen=True, repr=False)
class TransplantAttribution(Result):
    """The estimated effect of every neuron's transplant on a metric.

    Attributes:
        base: Name of the model that neurons would be put into.
        tuned: Name of the model that they would come from.
        effects: Mean over prompts of the estimated change of the metric.
        n_prompts: How many prompts.
        metric_base: Mean of the metric in the base.
        metric_tuned: Mean of the metric in the tuned model.
    """

    base: str
    tuned: str
    effects: Float[Tensor, "layer d_mlp"]
    n_prompts: int
    metric_base: float
    metric_tuned: float

    def top(self, k: int) -> tuple[Neuron, ...]:
        """The k neurons that would move the metric most towards `tuned`.

        Raises:
            SettingError: k out of range.
        """
        towards = self.effects if self.metric_tuned >= self.metric_base else -self.effects
        return best(towards, k)

    @property
    def headline(self) -> str:
        """The metric in both models, and the sum of all estimates."""
        return (
            f"the metric is {self.metric_base:.3g} in {self.base} and {self.metric_tuned:.3g} in "
            f"{self.tuned}; the estimates of all {self.effects.numel():,} neurons add up to "
            f"{float(self.effects.double().sum()):+.3g} (N = {counted(self.n_prompts, 'prompt')})"
        )

    def frame(self, *, most: int | None = 50) -> pd.DataFrame:
        """One row per neuron, in the order of `top`: layer, unit, effect, n_prompts.

        Args:
            most: How many rows; None gives all.
        """
        total = self.effects.numel()
        rows = [
            (layer, unit, float(self.effects[layer, unit]), self.n_prompts)
            for layer, unit in self.top(total if most is None else min(most, total))
        ]
        return pd.DataFrame(rows, columns=["layer", "unit", "effect", "n_prompts"])


def transplant_attribution(
    base: nn.Module, tuned: nn.Module, batch: Mapping[str, Any], metric: Any
) -> TransplantAttribution:
    """Estimates what the transplant of every neuron would do to a metric, from one gradient.

    Neuron i of a layer writes a w in the base, and a' w' with the weights of the tuned model on the
    same input. With the gradient g of the metric with respect to what the MLP writes in the base,

        effect_i = Σ over tokens of g · (a' w' - a w)

    is, to first order, what `transplant(base, tuned, [i])` changes. Effects of neurons of one layer
    add up in what is written; later layers may bend the sum, so confirm with `transplant_curve` on
    prompts of their own. Inside `transplant` of some neurons it estimates what the others add.

    Source of the method: attribution patching (Nanda 2023; Syed et al., arXiv:2310.10348), for
    weights in place of activations.

    Args:
        base: The model that is changed; its parameters need no gradient and get none.
        tuned: The model that neurons come from.
        batch: `input_ids`, and `attention_mask` if there is padding, of the prompts.
        metric: Takes logits `[prompt, vocab]` at the last token of each prompt and gives one
            number per prompt, e.g. `al.patching.LogitDifference(right, wrong)`; differentiable.

    Returns:
        One number per neuron.

    Raises:
        ModelError: Another shape, vocabulary or dtype, or no language model.
        SettingError: A batch of other fields, or a metric without one number per prompt.

    Example:
        >>> import copy
        >>> import arcee_lab as al
        >>> base, tokenizer = al.load("demo")
        >>> tuned = copy.deepcopy(base)
        >>> changed = tuned.model.layers[3].mlp.down_proj.weight.data[:, 618].mul_(3)
        >>> batch = tokenizer(["Jezo works as a"], return_tensors="pt")
        >>> right, wrong = tokenizer.convert_tokens_to_ids(["Ġbaker", "Ġfarmer"])
        >>> metric = al.patching.LogitDifference(right, wrong)
        >>> estimate = al.neurons.transplant_attribution(base, tuned, batch, metric)
        >>> int((estimate.effects != 0).sum()) <= 1
        True
    """
    pair = ModelPair.of(base, tuned)
    prompts = Prompts.read(batch, metric, pair.base)
    with torch.no_grad():
        after = prompts.measure(pair.tuned)
    written = [f"layers.{layer}.hook_mlp_out" for layer in range(pair.layers)]
    inner = ["layers.*.mlp.hook_post", "layers.*.post_attention_layernorm.hook_normalized"]
    # Gradients start at the embeddings, whether or not the parameters want any.
    with (
        torch.enable_grad(),
        intervene(base, Replace("hook_embed", _leaf)),
        capture(base, written, grad=True) as outputs,
        capture(base, inner) as acts,
    ):
        before = prompts.measure(pair.base)
        if not before.requires_grad:
            raise SettingError(
                "metric has no gradient; compute it from the logits with torch, without argmax."
            )
        gradients = torch.autograd.grad(before.sum(), [outputs[name] for name in written])
    with torch.no_grad():
        effects = [
            _effects(pair, layer, acts, gradient, prompts.attended)
            for layer, gradient in enumerate(gradients)
        ]
    names = pair.names
    return TransplantAttribution(
        base=names[0],
        tuned=names[1],
        effects=torch.stack(effects) / len(prompts),
        n_prompts=len(prompts),
        metric_base=float(before.detach().mean()),
        metric_tuned=float(after.mean()),
    )


def _effects(
    pair: ModelPair,
    layer: int,
    acts: Mapping[str, Tensor],
    gradient: Float[Tensor, "prompt pos d_model"],
    attended: Tensor,
) -> Float[Tensor, " d_mlp"]:
    """Of one layer, summed over prompts, on the CPU; padding writes nothing that counts."""
    real = attended.to(gradient.device)
    g = wide(gradient[real])
    x = wide(acts[f"layers.{layer}.post_attention_layernorm.hook_normalized"][real].to(g.device))
    a = wide(acts[f"layers.{layer}.mlp.hook_post"][real].to(g.device))
    one, other = (weights_of(anatomy, layer) for anatomy in pair)
    u = x @ wide(other.up.to(g.device)).T
    if other.bias is not None:
        u = u + wide(other.bias.to(g.device))
    new = (u.relu().square() * (g @ wide(other.down.to(g.device)))).sum(0)
    return (new - (a * (g @ wide(one.down.to(g.device)))).sum(0)).cpu()


def _leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_()
