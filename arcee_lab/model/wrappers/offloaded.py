"""Weights that accelerate keeps in the host's memory or on disk until their module runs."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


def device_of(model: Any) -> torch.device:
    """Where a model computes, and its inputs go; offloaded weights themselves are on no device.

    Args:
        model: A model of transformers, or one of ours.
    """
    found = next(param.device for param in model.parameters())
    return found if found.type != "meta" else execution_device(model) or found


def execution_device(model: nn.Module) -> torch.device | None:
    """The device on which accelerate runs an offloaded model; None if it does not run one."""
    hooks = (getattr(module, "_hf_hook", None) for module in model.modules())
    single = (one for hook in hooks for one in getattr(hook, "hooks", (hook,)))
    # 0 is the first GPU.
    given = (getattr(one, "execution_device", None) for one in single)
    device = next((one for one in given if one is not None), None)
    if device is None:
        return None
    return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)


def brought_in(module: nn.Module, tensors: Iterable[Tensor]) -> AbstractContextManager[None]:
    """The context in which a module's offloaded tensors have values, on the CPU.

    Args:
        module: The module.
        tensors: Its own tensors that are needed.
    """
    if not any(x.is_meta for x in tensors) or not hasattr(module, "_hf_hook"):
        return nullcontext()
    from accelerate.utils import align_module_device

    return align_module_device(module, torch.device("cpu"))
