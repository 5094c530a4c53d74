"""`transplant`: neurons of one checkpoint in another, by their weights or by their activations."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from arcee_lab.errors import ModelError
from arcee_lab.interventions import Patch
from arcee_lab.model.anatomy import Anatomy, anatomy_of
from arcee_lab.neurons.compared.pair import ModelPair, weights_of
from arcee_lab.neurons.compared.prompts import inputs_of
from arcee_lab.recording.capturing import capture


@contextmanager
def transplant(base: nn.Module, tuned: nn.Module, neurons: Iterable[Any]) -> Iterator[nn.Module]:
    """Puts the weights of some neurons of `tuned` into `base`, for a block.

    Of each neuron the row of `up_proj`, its bias if there is one, and the column of `down_proj` are
    those of `tuned`; everything else is the base. At the end of the block, also after an exception,
    the base has its own weights again, bit for bit. Blocks nest; the last one opened acts.

    Args:
        base: The model that is changed; its MLPs are plain weights in memory.
        tuned: The model that neurons come from; adapters in it count as weights.
        neurons: `(layer, unit)` or "L1/N32" each, such as `NeuronDiff.top(10)` gives.

    Yields:
        The base, for calls such as `al.evals.run`.

    Raises:
        ModelError: Another shape, vocabulary or dtype; quantised, sharded or adapted weights in
            the base.
        SettingError: A neuron that the models lack, or one named twice.

    Example:
        >>> import copy
        >>> import torch
        >>> import arcee_lab as al
        >>> base, tokenizer = al.load("demo")
        >>> tuned = copy.deepcopy(base)
        >>> changed = tuned.model.layers[2].mlp.down_proj.weight.data.mul_(0)
        >>> with al.neurons.transplant(base, tuned, [(2, 757)]):
        ...     print(base.model.layers[2].mlp.down_proj.weight[:, 757].abs().sum().item())
        0.0
    """
    pair = ModelPair.of(base, tuned)
    chosen = pair.by_layer(neurons)
    slots = [slot for layer, units in chosen.items() for slot in _slots(pair, layer, units)]
    kept = [(weight, index, weight[index].clone()) for weight, index, _ in slots]
    try:
        with torch.no_grad():
            for weight, index, new in slots:
                weight[index] = new
        yield base
    finally:
        with torch.no_grad():
            for weight, index, old in kept:
                weight[index] = old


def transplant_activations(
    tuned: nn.Module, batch: Mapping[str, Any], neurons: Iterable[Any]
) -> list[Patch]:
    """The activations of some neurons of `tuned` on a batch, as interventions for another model.

    Inside `al.intervene(base, patches)` a call of `base` on the same batch has these neurons'
    relu(u)² from `tuned`; its own columns of `down_proj` write them. So it moves what a neuron has
    read, not what it writes.

    Args:
        tuned: The model that activations come from.
        batch: `input_ids`, and `attention_mask` if there is padding.
        neurons: `(layer, unit)` or "L1/N32" each.

    Returns:
        One intervention per layer.

    Raises:
        SettingError: A neuron that the model lacks, one named twice, or a batch of other fields.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> batch = tokenizer(["Nipu likes olives ."], return_tensors="pt")
        >>> patches = al.neurons.transplant_activations(model, batch, [(2, 757), (3, 618)])
        >>> with al.intervene(model, patches):
        ...     output = model(**batch)
    """
    anatomy = anatomy_of(tuned)
    inputs = inputs_of(batch, anatomy.model.device)
    chosen = ModelPair(anatomy, anatomy).by_layer(neurons)
    with torch.no_grad(), ExitStack() as blocks:
        held = {
            layer: blocks.enter_context(capture(tuned, _site(layer), units=units))
            for layer, units in sorted(chosen.items())
        }
        anatomy.model(**inputs, use_cache=False)
    return [
        Patch(
            _site(layer),
            acts[_site(layer)],
            attended=inputs["attention_mask"].bool(),
            units=chosen[layer],
        )
        for layer, acts in held.items()
    ]


def _site(layer: int) -> str:
    return f"layers.{layer}.mlp.hook_post"


def _slots(pair: ModelPair, layer: int, units: list[int]) -> list[tuple[Tensor, Any, Tensor]]:
    """Each part of the base's weights that changes: the tensor, where, and what goes there."""
    mlp: Any = pair.base.module(f"layers.{layer}.mlp")
    new = weights_of(pair.tuned, layer)
    index = torch.tensor(units)
    up, down = _plain(pair.base, mlp.up_proj, layer), _plain(pair.base, mlp.down_proj, layer)
    slots: list[tuple[Tensor, Any, Tensor]] = []
    for weight, there, given in (
        (up, (index.to(up.device),), new.up),
        (down, (slice(None), index.to(down.device)), new.down),
    ):
        where = tuple(i.to(given.device) if isinstance(i, Tensor) else i for i in there)
        slots.append((weight, there, given[where].to(weight)))
    if new.bias is not None:
        bias = mlp.up_proj.bias.data
        there = (index.to(bias.device),)
        slots.append((bias, there, new.bias[index.to(new.bias.device)].to(bias)))
    return slots


def _plain(anatomy: Anatomy, linear: Any, layer: int) -> Tensor:
    """The weight of a plain linear layer, to be written to."""
    weight: Any = getattr(linear, "weight", None)
    plain = isinstance(linear, nn.Linear) and not hasattr(linear, "base_layer")
    # Sharded weights, and quantised ones that claim to be floating, are tensors made of others.
    whole = isinstance(weight, Tensor) and not is_traceable_wrapper_subclass(weight)
    if not plain or not whole or not weight.is_floating_point():
        raise ModelError(
            f"the MLP of layer {layer} of the base is a {type(linear).__name__} with adapters, or "
            "quantised or sharded; expected plain weights: merge adapters, and load the model in "
            "full precision on one device."
        )
    if weight.device.type == "meta":
        raise ModelError(
            f"the MLP of layer {layer} of the base is offloaded or on the meta device; load it "
            "with its weights in memory."
        )
    return weight.data
