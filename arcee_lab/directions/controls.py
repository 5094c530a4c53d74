"""The model with random weights, as a control, and whether there is memory for it."""

import copy
import os
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from arcee_lab.errors import DeviceError
from arcee_lab.model.anatomy import anatomy_of
from arcee_lab.results import counted

_MARGIN = 1.25  # of the weights' bytes: activations of a batch come on top


def random_weights(model: nn.Module, *, seed: int) -> nn.Module:
    """A copy of a model whose matrices are drawn anew, each with its own mean and deviation.

    Embeddings are drawn too; norms and biases stay. So the sizes of activations are about those of
    the model, and nothing that it learnt is left.

    Args:
        model: The model, which stays as it is.
        seed: Random seed; the caller's generators stay unchanged.
    """
    twin = copy.deepcopy(anatomy_of(model).model).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, weight in sorted(twin.named_parameters()):
            if weight.ndim < 2:
                continue
            deviation, mean = torch.std_mean(weight.float())
            drawn = torch.randn(weight.shape, generator=generator)
            weight.copy_(drawn.to(weight.device) * deviation + mean)
    return twin


def why_not(model: nn.Module) -> str | None:
    """Why a copy with random weights cannot be made here; None if it can.

    Args:
        model: The model.
    """
    inner = anatomy_of(model).model
    parameters = list(inner.parameters())
    devices = {parameter.device for parameter in parameters}
    if len(devices) > 1 or "meta" in {device.type for device in devices}:
        return "the model is spread over several devices"
    if not all(parameter.is_floating_point() for parameter in parameters):
        return "its weights are quantised"
    needed = int(_MARGIN * sum(parameter.nbytes for parameter in parameters))
    free = free_memory(devices.pop())
    if free is None:
        return "the free memory is not known"
    if needed > free:
        return (
            f"a copy takes {counted(needed, 'byte')} ({needed / 2**30:.3g} GiB), and "
            f"{free / 2**30:.3g} GiB are free"
        )
    return None


def free_memory(device: torch.device) -> int | None:
    """Free bytes of a device, or None if the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with suppress(ValueError, OSError, AttributeError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def control_of(
    model: nn.Module, given: nn.Module | bool | None, *, seed: int
) -> tuple[nn.Module | None, str]:
    """The control that `random_model=` asks for, and why there is none.

    Args:
        model: The model.
        given: A model; True makes one, False none, None one if there is memory for it.
        seed: Of a new one.

    Raises:
        DeviceError: True was given, and none can be made.
    """
    if isinstance(given, nn.Module):
        return given, ""
    if given is False:
        return None, "it was not asked for"
    reason = why_not(model)
    if reason is None:
        return random_weights(model, seed=seed), ""
    if given:
        raise DeviceError(
            f"No control with random weights can be made: {reason}; give random_model=False, or a "
            "model of your own."
        )
    return None, reason
