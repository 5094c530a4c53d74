"""Reads the state of an interrupted run: all of it is checked before any of it is used."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.optim import Optimizer

from arcee_lab.errors import SavedDamaged
from arcee_lab.runs.json_text import reason

MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # the state of AdamW for a parameter


def moments(optimizer: Optimizer, weight: Tensor) -> dict[str, Tensor]:
    """The state of AdamW for a parameter; zeros, its start, before the first gradient."""
    known = optimizer.state.get(weight)
    if not known:
        zeros = torch.zeros_like(weight)
        known = {"step": torch.zeros(()), "exp_avg": zeros, "exp_avg_sq": zeros.clone()}
    return {key: known[key].contiguous() for key in MOMENTS}


def with_moments(name: str, weight: Tensor) -> dict[str, Tensor]:
    """A parameter and its AdamW state under their names in a saved state, for `read_state`."""
    like = {"step": torch.zeros(()), "exp_avg": weight, "exp_avg_sq": weight}
    return {name: weight} | {f"optimizer.{key}.{name}": like[key] for key in MOMENTS}


def read_state(
    path: Path, wanted: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file and its metadata.

    Args:
        path: The file.
        wanted: The tensors that it must hold, these and no others, each as a tensor of the same
            shape and dtype.

    Raises:
        ValueError: It is not such a file; the message is for `damaged`.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            if names != set(wanted):
                lacks, more = sorted(set(wanted) - names), sorted(names - set(wanted))
                raise SavedDamaged(f"it lacks {lacks[0]}" if lacks else f"{more[0]} is not known")
            for name, like in wanted.items():  # before any bytes are read
                shape = file.get_slice(name).get_shape()
                if list(shape) != list(like.shape):
                    raise SavedDamaged(f"{name} has the shape {shape}; expected {list(like.shape)}")
            # Copies: what safetensors gives is mapped from the file, which may be cut later.
            tensors = {name: file.get_tensor(name).clone() for name in wanted}
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, RuntimeError) as error:
        raise SavedDamaged(reason(error)) from error
    for name, tensor in tensors.items():
        if tensor.dtype != wanted[name].dtype:
            raise SavedDamaged(f"{name} is {tensor.dtype}; expected {wanted[name].dtype}")
    return tensors, metadata


def damaged(path: Path, error: Exception | str) -> SavedDamaged:
    """The error for a state that cannot be used; it says what to do."""
    said = error if isinstance(error, str) else reason(error)
    said = f"{said} is missing" if isinstance(error, KeyError) else said
    return SavedDamaged(
        f"{path} is damaged ({said}); remove it and repeat the same call or command to start "
        "again, or choose another folder."
    )
