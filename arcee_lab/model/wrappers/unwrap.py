"""Finds the model inside the wrappers that other tools put around it.

    torch.compile                   OptimizedModule
    torch.nn.parallel               DistributedDataParallel, DataParallel
    torch.distributed checkpoints   CheckpointWrapper
    peft                            PeftModel, PeftMixedModel; adapters stay in the layers and act
    accelerate                      gives one of these, or the model itself

`torch.distributed.fsdp.fully_shard` changes the class of the model and needs no unwrapping.
"""

import sys
from typing import Any

from torch import nn

from arcee_lab.errors import ModelError

# Wrapper of torch, by class name -> the child that it wraps. By name: importing the classes would
# load torch's compiler and distributed package.
_CHILDREN = {
    "OptimizedModule": "_orig_mod",
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "CheckpointWrapper": "_checkpoint_wrapped_module",
}


def unwrap(model: nn.Module) -> nn.Module:
    """Returns the innermost model; one without a wrapper is returned as it is.

    The wrapper is not changed and may be called as before; what is found inside gives the same
    numbers, with the adapters that are active.

    Args:
        model: Any torch module.

    Raises:
        ValueError: A wrapper whose numbers the inner model does not give alone: PEFT's prompt
            learning, which acts before the model, and FSDP1, which holds the weights in pieces.

    Example:
        >>> import torch
        >>> from arcee_lab.model.wrappers.unwrap import unwrap
        >>> linear = torch.nn.Linear(2, 2)
        >>> unwrap(torch.nn.DataParallel(linear)) is linear
        True
    """
    inner = _inside(model)
    while inner is not None:
        model, inner = inner, _inside(inner)
    return model


def _inside(model: nn.Module) -> nn.Module | None:
    kind = type(model)
    child = _CHILDREN.get(kind.__name__)
    if child is not None and kind.__module__.startswith("torch."):
        return model._modules.get(child)
    if kind.__name__ == "FullyShardedDataParallel":
        raise ModelError(
            "FullyShardedDataParallel holds the weights in pieces that only its own forward puts "
            "together; shard the model with torch.distributed.fsdp.fully_shard, which keeps it one "
            "of arcee_lab's models."
        )
    peft = sys.modules.get("peft")
    if peft is None or not isinstance(model, peft.PeftModel | peft.PeftMixedModel):
        return None
    config: Any = getattr(model, "active_peft_config", None)
    if getattr(config, "is_prompt_learning", False):
        raise ModelError(
            f"The adapter of this {kind.__name__} is prompt learning ({config.peft_type}), which "
            "acts outside of the model's layers and would be left out; expected adapters inside "
            "the layers, such as LoRA."
        )
    wrapper: Any = model
    return wrapper.get_base_model()
