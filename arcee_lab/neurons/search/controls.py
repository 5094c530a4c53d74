"""The untrained copy of a model, as a control, and whether it fits."""

import copy
import os
from typing import NamedTuple

import torch
from torch import nn

from arcee_lab.errors import SiteError
from arcee_lab.model.anatomy import Anatomy

_SPARE = 1.25  # a copy needs its weights, and room for what a forward holds


class Untrained(NamedTuple):
    """A model without training, or why there is none.

    Attributes:
        model: The model, or None.
        missing: Why there is none, "" if there is one.
    """

    model: nn.Module | None
    missing: str


def untrained_copy(anatomy: Anatomy, *, seed: int) -> Untrained:
    """A copy whose matrices are drawn anew, as a new model's, and whose norms are 1.

    Every matrix is normal around 0 with the configuration's `initializer_range`. The copy is made
    where it takes at most half of the memory that is free on the model's device.

    Args:
        anatomy: Of the model.
        seed: Random seed of the weights.
    """
    model = anatomy.model
    parameters = list(model.parameters())
    devices = {parameter.device for parameter in parameters}
    plain = all(parameter.is_floating_point() for parameter in parameters)
    if not plain or len(devices) > 1 or any(hasattr(p, "full_tensor") for p in parameters):
        return Untrained(None, "its weights are quantised, or spread over devices")
    (device,) = devices
    if device.type == "meta":
        return Untrained(None, "its weights are on the meta device")
    needed = int(_SPARE * sum(p.numel() * p.element_size() for p in parameters))
    free = _free(device)
    if free is not None and 2 * needed > free:
        return Untrained(
            None, f"it needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free on {device}"
        )
    try:
        fresh = copy.deepcopy(model)
    except SiteError:  # the block's hooks would come along
        return Untrained(None, "the model is inside an open block, where it cannot be copied")
    spread = float(getattr(model.config, "initializer_range", 0.02))
    generator = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for parameter in fresh.parameters():  # tied ones come once
            if parameter.ndim > 1:
                parameter.normal_(0, spread, generator=generator)
            else:
                parameter.fill_(1)
    return Untrained(fresh, "")


def _free(device: torch.device) -> int | None:
    """Free bytes on a device; None where nobody knows."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
