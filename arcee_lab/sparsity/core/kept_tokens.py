"""Tokens whose active neurons are kept as bits: all there are, or a uniform sample of them.

Every counted token gets a number that mixes the checksum of its window with its position, and those
with the smallest numbers are kept, as many as fit into 64 MiB. So the choice depends on the text
alone: two models measured on one text keep the same tokens, and what two texts keep adds up to what
both together keep, to the last bit.

Sources: Cohen and Kaplan, "Summarizing Data Using Bottom-k Sketches", PODC 2007; Steele, Lea and
Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014, for the mixing function.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from arcee_lab.sparsity.core import packed_masks, window_means
from arcee_lab.sparsity.core.state import CountedTokens, Shape, State

BYTES = 2**26  # of all kept tokens together
_AT_ONCE = 2**22  # tokens that are numbered together
_GOLDEN, _FIRST, _SECOND = (
    np.uint64(x) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


@dataclass(frozen=True, eq=False)
class Drawn:
    """Which tokens are kept.

    Attributes:
        numbers: Their numbers among the counted tokens of the text, ascending.
        slots: The row that each is kept in: its place by the mixed number.
    """

    numbers: Int[np.ndarray, " kept"]
    slots: Int[np.ndarray, " kept"]

    def rows_and_slots(
        self, tokens: CountedTokens
    ) -> tuple[Int[np.ndarray, " here"], Int[np.ndarray, " here"]]:
        """Which tokens of a batch are kept: their places in its list, and their slots."""
        if not len(self.numbers):
            return self.numbers, self.slots
        at = self.numbers.searchsorted(tokens.numbers).clip(max=len(self.numbers) - 1)
        here = np.flatnonzero(self.numbers[at] == tokens.numbers)
        return here, self.slots[at[here]]


def rows(layers: int, d_mlp: int) -> int:
    """How many tokens are kept at most."""
    return max(1, BYTES // (layers * -(-d_mlp // 8)))


def mixed(
    keys: Int[np.ndarray, " token"], positions: Int[np.ndarray, " token"]
) -> Int[np.ndarray, " token"]:
    """The number of each token, from the checksum of its window and its position."""
    x = (keys.astype(np.uint64) << np.uint64(32)) | positions.astype(np.uint64)
    x = x + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)


def draw(
    counted: Bool[np.ndarray, " token"],
    bounds: Int[np.ndarray, " window_and_end"],
    keys: Int[np.ndarray, " window"],
    most: int,
) -> Drawn:
    """Chooses the tokens of a text.

    Args:
        counted: Which of its tokens count.
        bounds: Where its windows begin, and where the last one ends.
        keys: A checksum of each window.
        most: How many tokens to keep.
    """
    kept, order = np.zeros(0, np.int64), np.zeros(0, np.int64)
    n_before = 0
    for start in range(0, len(counted), _AT_ONCE):
        places = start + np.flatnonzero(counted[start : start + _AT_ONCE])
        windows = bounds.searchsorted(places, side="right") - 1
        found = mixed(keys[windows], places - bounds[windows])
        numbers = n_before + np.arange(len(places))
        n_before += len(places)
        if len(kept) == most:
            low = found < order[-1]
            found, numbers = found[low], numbers[low]
        order, kept = np.concatenate([order, found]), np.concatenate([kept, numbers])
        first = order.argsort(kind="stable")[:most]
        order, kept = order[first], kept[first]
    by_number = kept.argsort()
    return Drawn(kept[by_number], by_number)


def new_state(shape: Shape, device: torch.device) -> State:
    """The rows before any token."""
    size = min(rows(shape.layers, shape.d_mlp), shape.tokens)
    masks = (size, shape.layers, -(-shape.d_mlp // 8))
    return {
        "drawn_masks": torch.zeros(masks, dtype=torch.uint8, device=device),
        "drawn_order": torch.zeros(size, dtype=torch.int64, device=device),
        "drawn_windows": torch.zeros(size, dtype=torch.int64, device=device),
    }


def add_layer(
    state: State,
    layer: int,
    post: Float[Tensor, "row d_mlp"],
    places: Int[Tensor, " here"],
    slots: Int[Tensor, " here"],
) -> None:
    """Keeps which neurons of a layer fire at some tokens.

    Args:
        state: The rows, changed in place.
        layer: Which layer.
        post: a at every position of the batch; it may be on another device.
        places: The rows of a that are kept, on its device.
        slots: Where each is kept, on the device of the rows.
    """
    if not len(slots):
        return
    masks = state["drawn_masks"]
    packed = packed_masks.pack_tensor(post.index_select(0, places) != 0)
    masks[slots, layer] = packed.to(masks.device, non_blocking=True)


def add_batch(
    state: State, tokens: CountedTokens, here: Int[np.ndarray, " here"], slots: Int[Tensor, " here"]
) -> None:
    """Keeps what tells the tokens of a batch from all others.

    Args:
        state: The rows, changed in place.
        tokens: Which tokens the batch has.
        here: Which of them are kept.
        slots: Where each is kept, on the device of the rows.
    """
    if not len(slots):
        return
    sizes = [stop - start for start, stop in tokens.spans]
    keys = np.repeat(np.array(tokens.keys, np.int64), sizes)[here]
    order = mixed(keys, tokens.positions[here])
    state["drawn_order"][slots] = window_means.places(order, slots.device)
    state["drawn_windows"][slots] = window_means.places(keys, slots.device)
