"""The direction of one neuron: what it writes, or what it reads."""

from typing import Any, Literal

import torch
from torch import nn

from arcee_lab.directions.direction import Direction
from arcee_lab.errors import SettingError
from arcee_lab.model.anatomy import anatomy_of
from arcee_lab.model.fingerprint import model_fingerprint, model_name
from arcee_lab.model.wrappers.adapters import effective_weight
from arcee_lab.runs.arguments import checked


@checked
def neuron(
    model: nn.Module, layer: int, unit: int, *, part: Literal["writes", "reads"] = "writes"
) -> Direction:
    """The direction of a neuron, read from the weights.

    "writes" is its column of `down_proj`, at `layers.L.hook_resid_post`: strength 1 adds what an
    activation of 1 adds. "reads" is its row of `up_proj`, at the output of the norm before the MLP:
    strength 1 raises u by 1, and the neuron fires where the score is above 0.

    Nothing is fitted, so there is nothing to confirm; `al.neurons.find` tries neurons on texts.

    Args:
        model: An Arcee model with any head.
        layer: Its layer.
        unit: Its number there.
        part: "writes" or "reads".

    Raises:
        SettingError: There is no such neuron or part, or its weights are all 0.

    Example:
        >>> import arcee_lab as al
        >>> model, _ = al.load("demo")
        >>> al.directions.neuron(model, 1, 17).site
        'layers.1.hook_resid_post'
    """
    anatomy = anatomy_of(model)
    layers, units = len(anatomy.backbone.layers), anatomy.size("d_mlp")
    if not 0 <= layer < layers or not 0 <= unit < units:
        raise SettingError(
            f"There is no neuron {unit} in layer {layer}; expected layers 0 to {layers - 1} and "
            f"neurons 0 to {units - 1}."
        )
    if part not in ("writes", "reads"):
        raise SettingError(f"part={part!r}; expected 'writes' or 'reads'.")
    mlp: Any = anatomy.module(f"layers.{layer}.mlp")
    if part == "writes":
        site, vector = f"layers.{layer}.hook_resid_post", effective_weight(mlp.down_proj)[:, unit]
    else:
        site = f"layers.{layer}.post_attention_layernorm.hook_normalized"
        vector = effective_weight(mlp.up_proj)[unit]
    vector = vector.detach().double().cpu()
    length = float(vector.norm())
    if not length:
        raise SettingError(f"Neuron {unit} of layer {layer} has weights of 0 only; take another.")
    bias = getattr(mlp.up_proj, "bias", None)
    offset = 0.0 if bias is None else float(bias.detach()[unit])
    return Direction(
        site=site,
        vectors=(vector / length).float()[None],
        scale=torch.tensor([length if part == "writes" else 1 / length]),
        threshold=None if part == "writes" else -offset / length,
        method="what a neuron writes" if part == "writes" else "what a neuron reads",
        concept=f"neuron {layer}.{unit}",
        model=model_name(model),
        fingerprint=model_fingerprint(model),
        n=0,
        documents=0,
        split="read from the weights",
    )
