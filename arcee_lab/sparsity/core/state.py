"""What an analysis counts: a dict of tensors that adds up over texts, ranks and resumed runs.

    other tensors, of integers,   are summed
    names that start with "max_"  take the larger value
    names that start with "kept_" are laid end to end, up to a length that the analysis fixes
    names that start with "drawn_" likewise, but ordered by "drawn_order", the lowest first

Means of real numbers are held in fixed point for that reason; see `window_means`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

State = dict[str, Tensor]


@dataclass(frozen=True)
class Shape:
    """What fixes the shapes of a state.

    Attributes:
        layers: MLPs.
        d_model: Width of the residual stream.
        d_mlp: Neurons per layer.
        vocab: Token ids there are.
        longest: Tokens of the longest window.
        tokens: Tokens of all windows together, first positions included.
    """

    layers: int
    d_model: int
    d_mlp: int
    vocab: int
    longest: int
    tokens: int


@dataclass(frozen=True, eq=False)
class CountedTokens:
    """Which tokens of a batch count: neither padding nor first positions, window after window.

    All of it is known before the forward, so that no device is waited for.

    Attributes:
        places: Where they are in the flattened batch.
        ids: Their token ids.
        positions: Their positions in their windows, counted from the window's first token, 0.
        numbers: Their numbers in the text as a whole, first positions included in the numbering.
        spans: Of each window, where its counted tokens begin and end in the list.
        slots: Of each window, its number among the windows of the sample; -1 where it is in none.
        keys: Of each window, a checksum of its token ids.
        next_ids: The token after each; -1 where the window ends.
        tried: Of the list, the tokens that a predictor is tried on; see `schedule`.
    """

    places: Int[Tensor, " token"]
    ids: np.ndarray
    positions: np.ndarray
    numbers: np.ndarray
    spans: tuple[tuple[int, int], ...]
    slots: tuple[int, ...]
    keys: tuple[int, ...]
    next_ids: np.ndarray
    tried: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


def combine(states: Sequence[State]) -> State:
    """The state of several ranks of one run: rows that one rank keeps are 0 in all the others."""
    whole = {name: tensor.clone() for name, tensor in states[0].items()}
    for state in states[1:]:
        for name, tensor in state.items():
            if name.startswith("max_"):
                torch.maximum(whole[name], tensor, out=whole[name])
            else:
                whole[name] += tensor
    return whole


def join(first: State, second: State, kept: dict[str, int]) -> State:
    """The state of two texts one after the other.

    Args:
        first: State of the first text.
        second: State of the second. Tables over positions may be longer in one than in the other.
        kept: Rows that "kept_" and "drawn_" tensors hold at most, by name.
    """
    joined = {}
    if "drawn_order" in first:
        order = torch.cat([first["drawn_order"], second["drawn_order"]]).argsort(stable=True)
        for name in (name for name in first if name.startswith("drawn_")):
            joined[name] = torch.cat([first[name], second[name]])[order[: kept[name]]]
    for name, one in first.items():
        two = second[name]
        if name in joined:
            continue
        if name.startswith("kept_"):
            joined[name] = torch.cat([one, two])[: kept[name]]
            continue
        size = max(len(one), len(two)) if one.dim() else 0
        one, two = _padded(one, size), _padded(two, size)
        joined[name] = torch.maximum(one, two) if name.startswith("max_") else one + two
    return joined


def _padded(x: Tensor, size: int) -> Tensor:
    if not x.dim() or len(x) == size:
        return x
    return torch.cat([x, x.new_zeros(size - len(x), *x.shape[1:])])
