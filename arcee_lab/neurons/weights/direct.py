"""`logit_attribution`: what each active neuron adds to a logit, at every token of a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from arcee_lab.errors import SettingError
from arcee_lab.neurons.weights._effects import chosen
from arcee_lab.neurons.weights.attribution import attribute_neurons
from arcee_lab.neurons.weights.projection import causal_anatomy, mlp_of, unembedding, wide
from arcee_lab.recording.capturing import capture
from arcee_lab.results import Result, counted
from arcee_lab.runs.arguments import checked
from arcee_lab.sites import unit_name


@dataclass(frozen=True, repr=False)
class LogitAttribution(Result):
    """What neurons add to one token's logit at each position, minus their mean over all logits.

    Attributes:
        tokens: The token at each position.
        targets: The token whose logit is meant, at each position.
        attended: Which positions are real.
        layers: The layers, in the order of the first axis below.
        values: What each neuron adds; exactly 0 for one that is off.
    """

    tokens: Int[Tensor, "batch pos"]
    targets: Int[Tensor, "batch pos"]
    attended: Bool[Tensor, "batch pos"]
    layers: tuple[int, ...]
    values: Float[Tensor, "layer batch pos d_mlp"]

    @property
    def headline(self) -> str:
        """How many neurons are active at how many tokens."""
        active = int((self.values != 0)[:, self.attended].sum())
        tokens = int(self.attended.sum())
        return (
            f"{counted(active, 'active neuron')} of {counted(len(self.layers), 'layer')} at "
            f"{counted(tokens, 'token')}, {active / max(1, tokens):,.0f} per token"
        )

    def frame(self, *, most: int = 20) -> pd.DataFrame:
        """One row per neuron and position of the largest parts.

        Args:
            most: How many rows; padding gives none.
        """
        real = self.values.masked_fill(~self.attended[None, :, :, None], 0)
        order = real.abs().flatten().topk(min(most, real.numel())).indices
        places = torch.unravel_index(order, real.shape)
        rows = []
        for layer, row, position, unit in zip(*(p.tolist() for p in places), strict=True):
            value = float(real[layer, row, position, unit])
            token, target = self.tokens[row, position], self.targets[row, position]
            name = unit_name(self.layers[layer], unit)
            rows.append((row, position, int(token), int(target), name, value))
        columns = ["sequence", "position", "token", "target", "neuron", "adds"]
        return pd.DataFrame(rows, columns=columns)


@torch.no_grad()
@checked
def logit_attribution(
    model: nn.Module,
    batch: Mapping[str, Tensor],
    *,
    targets: Tensor | int | None = None,
    layers: int | Sequence[int] | None = None,
) -> LogitAttribution:
    """Direct logit attribution to neurons: what each adds to a logit at each token, exactly.

    The final norm's scale at a token is a number, and given it the logits are a sum over what every
    part of the model wrote: neuron i of a layer adds `a_i · scale · (w_i · γ · U_t)`, centred over
    the vocabulary. Only active neurons add anything. What other layers do with a neuron's output
    is not in it.

    Args:
        model: One of arcee_lab's language models.
        batch: `input_ids`, and `attention_mask` if there is padding.
        targets: Token ids whose logits are meant, one per position, or one for all; by default the
            next token of the text, and the token itself at the last position.
        layers: Layers to read, negative from the end; all by default. One layer of AFM-4.5B takes
            74 kB per token.

    Returns:
        One number per layer, token and neuron.

    Raises:
        ModelError: The model is no language model.
        SettingError: Layers or targets out of range.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> batch = tokenizer(["The dogs near the barn sleep ."], return_tensors="pt")
        >>> parts = al.neurons.logit_attribution(model, batch, layers=-1)
        >>> list(parts.values.shape)[-1] == model.config.intermediate_size
        True
    """
    anatomy = causal_anatomy(model, what="al.neurons.logit_attribution")
    numbers = chosen(layers, len(anatomy.backbone.layers), what="layers")
    ids = batch["input_ids"]
    mask = batch.get("attention_mask")
    attended = torch.ones_like(ids) if mask is None else mask
    goal = _targets(ids, targets, anatomy.size("vocab"))
    sites = [f"layers.{number}.mlp.hook_post" for number in numbers]
    with capture(model, [*sites, "norm.hook_scale"], stop_at="norm.hook_scale") as acts:
        arguments: dict[str, Any] = {} if mask is None else {"attention_mask": mask}
        model(input_ids=ids, use_cache=False, **arguments)
    scale = wide(acts["norm.hook_scale"])
    rows = unembedding(anatomy)[goal.to(anatomy.model.lm_head.weight.device)]  # type: ignore[union-attr]
    values = []
    for number, site in zip(numbers, sites, strict=True):
        post = acts[site]
        direction = rows.to(post.device) * scale.to(post.device)
        values.append(attribute_neurons(post, mlp_of(anatomy, number).down, direction).cpu())
    return LogitAttribution(
        ids.cpu(), goal.cpu(), attended.bool().cpu(), tuple(numbers), torch.stack(values)
    )


def _targets(ids: Tensor, targets: Any, vocab: int) -> Tensor:
    if targets is None:
        return torch.cat([ids[:, 1:], ids[:, -1:]], dim=1)
    goal = torch.as_tensor(targets, device=ids.device)
    goal = goal.expand(ids.shape) if goal.ndim == 0 else goal
    if goal.shape != ids.shape or goal.is_floating_point():
        raise SettingError(
            f"targets are {goal.dtype} of the shape {list(goal.shape)}; expected token ids of the "
            f"shape {list(ids.shape)}, or one id."
        )
    if not goal.is_meta and len(wrong := goal[(goal < 0) | (goal >= vocab)]):
        raise SettingError(f"targets hold {int(wrong[0])}; expected ids from 0 to {vocab - 1}.")
    return goal
