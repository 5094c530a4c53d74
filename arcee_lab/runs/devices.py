"""The one place where the name of a device becomes a device."""

import torch

from arcee_lab.errors import DeviceError


def read_device(device: str | torch.device, *, computes: bool = True) -> torch.device:
    """A device by its name.

    Args:
        device: Its name, such as "cpu" or "cuda:1".
        computes: Whether it has to compute; torch's meta device holds no values.

    Raises:
        DeviceError: There is no such device, or this torch cannot compute on it.

    Example:
        >>> from arcee_lab.runs.devices import read_device
        >>> read_device("cpu")
        device(type='cpu')
    """
    try:
        found = torch.device(device)
        if computes and found.type == "meta":
            raise RuntimeError("it holds no values.")
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = lines[0].rstrip(".")
        raise DeviceError(
            f"device={str(device)!r} cannot be used with torch {torch.__version__}: {reason}. Use "
            "device='cpu', or install the torch build for your accelerator."
        ) from None
    return found
