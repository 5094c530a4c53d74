"""Adapters inside a model's layers, as PEFT's LoRA: which are active, and what weight acts.

A layer with an adapter is known by what PEFT's layers have, so that peft need not be installed.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from arcee_lab.model.wrappers.offloaded import brought_in

_AT_ONCE = 1024  # unit vectors that are run through a layer together


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, Any, tuple[str, ...]]]:
    """Every layer on which an adapter acts: its name, the layer, and the adapters."""
    for name, module in model.named_modules():
        adapters = _acting(module)
        if adapters:
            yield name, module, adapters


def adapter_tensors(layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters and buffers of a layer's adapters, without those of the layer they change."""
    own = ("base_layer.", "original_module.")
    for name, tensor in [*layer.named_parameters(), *layer.named_buffers()]:
        if not name.startswith(own):
            yield name, tensor


def effective_weight(linear: Any) -> Float[Tensor, "d_out d_in"]:
    """The weight that a linear layer multiplies by, adapters included, put together from ranks.

    A quantised layer, and one whose adapter is no sum of matrices, is asked by what it does to the
    unit vectors. Of a tensor-parallel layer every rank has to ask.

    Args:
        linear: `nn.Linear`, a quantised one, or one with adapters.
    """
    if hasattr(linear, "base_layer"):
        return _adapted(linear)
    weight = linear.weight
    if isinstance(weight, Tensor) and weight.is_floating_point():
        with brought_in(linear, [weight]):
            weight = linear.weight
            whole = weight.full_tensor() if hasattr(weight, "full_tensor") else weight  # type: ignore[operator]
            return whole.detach()
    return _by_unit_vectors(linear)


def _acting(module: nn.Module) -> tuple[str, ...]:
    if not (hasattr(module, "base_layer") or hasattr(module, "modules_to_save")):
        return ()
    merged = tuple(getattr(module, "merged_adapters", None) or ())
    if merged:
        return merged
    if getattr(module, "disable_adapters", False):
        return ()
    held = {name for name, _ in module.named_modules()} | {
        name for name, _ in adapter_tensors(module)
    }
    parts = {part for name in held for part in name.split(".")}
    active: Any = getattr(module, "active_adapters", None) or getattr(module, "active_adapter", ())
    return tuple(
        name for name in ([active] if isinstance(active, str) else active) if name in parts
    )


def _adapted(layer: Any) -> Tensor:
    """The weight of a layer with adapters."""
    adapters = _acting(layer)
    if not adapters or getattr(layer, "merged_adapters", None):
        return effective_weight(layer.base_layer)
    simple = hasattr(layer, "lora_A") and not getattr(layer, "lora_variant", None)
    base = getattr(layer.base_layer, "weight", None)
    if not simple or not isinstance(base, Tensor) or not base.is_floating_point():
        return _by_unit_vectors(layer)
    weight = effective_weight(layer.base_layer)
    with torch.no_grad():
        for name in adapters:
            weight = weight + layer.get_delta_weight(name).to(weight)
    return weight.detach()


@torch.no_grad()
def _by_unit_vectors(linear: Any) -> Tensor:
    inner = getattr(linear, "base_layer", linear)
    weight, bias = inner.weight, getattr(inner, "bias", None)
    bias = bias() if callable(bias) else bias
    device = weight.device if isinstance(weight, Tensor) else torch.device("cpu")
    plain = isinstance(weight, Tensor) and weight.is_floating_point()
    dtype = weight.dtype if plain else torch.float32
    modes = [(part, part.training) for part in linear.modules()]
    columns = []
    try:
        for part, _ in modes:  # an adapter's dropout would make the weight random
            part.training = False
        for start in range(0, linear.in_features, _AT_ONCE):
            stop = min(start + _AT_ONCE, linear.in_features)
            units = torch.zeros(stop - start, linear.in_features, dtype=dtype, device=device)
            units[:, start:stop].fill_diagonal_(1)
            out = linear.forward(units)  # not a call: hooks on the layer are for activations
            columns.append(out if bias is None else out - bias)
    finally:
        for part, mode in modes:
            part.training = mode
    return torch.cat(columns).T.contiguous()
