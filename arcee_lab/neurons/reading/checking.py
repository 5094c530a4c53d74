"""Whether tensors that were read can be the state of a layer: names, shapes, bounds and sums.

Each check gives a few words on what is wrong, or None; who reads a file turns them into an error.
"""

import torch
from jaxtyping import Int
from torch import Tensor

from arcee_lab.neurons.reading.state import State


def other_shapes(found: State, wanted: State) -> str | None:
    """Compares names, shapes and dtypes; the values of `wanted` are not looked at."""
    for name in {**wanted, **found}:
        if name not in found or name not in wanted:
            return f"{name} is {'missing' if name not in found else 'unknown'}"
        here, right = found[name], wanted[name]
        if (here.shape, here.dtype) != (right.shape, right.dtype):
            return (
                f"{name} is {list(here.shape)} of {here.dtype}, expected {list(right.shape)} of "
                f"{right.dtype}"
            )
    return None


def impossible(
    tensors: State, lengths: Int[Tensor, " window"], n_tokens: int, n_windows: int
) -> str | None:
    """Looks at bounds and sums.

    Args:
        tensors: A state of the right shapes, on the CPU.
        lengths: Tokens of each window of the text.
        n_tokens: How many tokens were counted.
        n_windows: How many windows were read.
    """
    for name in ("top", "drawn"):
        windows = tensors[f"{name}_windows"].long()
        positions, values = tensors[f"{name}_positions"], tensors[f"{name}_values"]
        if bool((windows < -1).any() or (windows >= len(lengths)).any()):
            return f"{name}_windows points outside of the windows"
        there = windows >= 0
        longest = torch.where(there, lengths[windows.clamp(min=0)], 0)
        if bool((there & ((positions < 0) | (positions >= longest))).any()):
            return f"{name}_positions points outside of its windows"
        if bool((there != (values > 0)).any()):
            return f"{name}_values and {name}_windows do not fit each other"
    fired, counts = tensors["fired"], tensors["histogram"]
    if int(tensors["tokens"]) != n_tokens or int(tensors["windows"]) != n_windows:
        return (
            f"it counts {int(tensors['tokens']):,} tokens in {int(tensors['windows']):,} windows, "
            f"expected {n_tokens:,} in {n_windows:,}"
        )
    if bool((fired < 0).any() or (fired > n_tokens).any()):
        return "fired holds counts that cannot be"
    if bool((counts < 0).any() or (counts.sum(1) > n_windows).any()):
        return "histogram holds counts that cannot be"
    return "nan is not 0" if int(tensors["nan"]) else None
