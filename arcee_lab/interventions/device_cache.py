"""Where the tensors of a value are needed: each is moved to a device once per block."""

import torch
from torch import Tensor

from arcee_lab.hooks.selection import Indices


class Placed:
    """Tensors on the devices, and in the dtypes, in which activations have asked for them."""

    def __init__(self):
        self._indices: dict[tuple[Indices, torch.device], Tensor] = {}
        self._tensors: dict[tuple[int, torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def index(self, numbers: Indices, device: torch.device) -> Tensor:
        """Whole numbers as a tensor on a device."""
        key = (numbers, device)
        if key not in self._indices:
            with torch.inference_mode(False):  # a later forward may have a backward
                self._indices[key] = sent(torch.tensor(numbers), device)
        return self._indices[key]

    def tensor(
        self, tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None
    ) -> Tensor:
        """A tensor on a device, by default in its own dtype."""
        key = (id(tensor), device, dtype or tensor.dtype)
        if key not in self._tensors:
            with torch.inference_mode(False):
                # The original is kept with it, or another tensor could come to bear its id.
                self._tensors[key] = (tensor, sent(tensor, device, key[2]))
        return self._tensors[key][1]


def sent(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor on a device, sent without waiting for what the device is doing."""
    # To the host it has to wait, or numbers could be read before they have arrived.
    return tensor.to(device, dtype or tensor.dtype, non_blocking=device.type != "cpu")
