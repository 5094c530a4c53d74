"""The core, at every token: zeros, active neurons, rates, sizes, positions and token ids.

Rows 1, 2, 3, 12 (the largest value), 13, 14 and 19 (correlation of layers) follow from these
counts:

    S_l = 1 - Σ_t Σ_i m / (N F)        m = 1 where a_i > 0; N tokens, F neurons
    k_t = Σ_i m                        active neurons of a token
    p_i = Σ_t m / N                    firing rate of a neuron
    how many a are in each bin of `sizes`

Sources: Li et al., "The Lazy Neuron Phenomenon", arXiv:2210.06313 (S); Luo et al., "Sparsing Law",
arXiv:2411.02335 (k by token id). All counts are int64; padding and first positions are in none but
`fired_first`.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from arcee_lab.sparsity.core import kept_tokens, magnitudes, window_means
from arcee_lab.sparsity.core.layer_counts import Counts, count
from arcee_lab.sparsity.core.state import CountedTokens, Shape, State

KEPT = 2**17  # tokens whose active counts are kept one by one: 72 bytes each at 36 layers
KEPT_ROWS = dict.fromkeys(("kept_active", "kept_ids", "kept_positions"), KEPT)


def new_state(shape: Shape, device: torch.device) -> State:
    """The counts before any token."""
    layers, kept = shape.layers, min(KEPT, shape.tokens)

    def zeros(*size: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.zeros(size, dtype=dtype, device=device)

    return {
        "fired": zeros(layers, shape.d_mlp),
        "fired_first": zeros(layers, shape.d_mlp),
        "active": zeros(layers, shape.d_mlp + 1),
        "sized": zeros(layers, magnitudes.BINS),
        "max_post": zeros(layers, dtype=torch.float32),
        "overflow": zeros(layers),
        "nan": zeros(layers),
        "position_active": zeros(shape.longest, layers),
        "position_tokens": zeros(shape.longest),
        "id_active": zeros(shape.vocab, layers),
        "id_tokens": zeros(shape.vocab),
        "products": zeros(layers, layers),
        "kept_active": zeros(kept, layers, dtype=torch.int32),
        "kept_ids": zeros(kept, dtype=torch.int32),
        "kept_positions": zeros(kept, dtype=torch.int32),
        "tokens": zeros(1),
        "first": zeros(1),
        **kept_tokens.new_state(shape, device),
    }


def add_layer(
    state: State,
    layer: int,
    post: Float[Tensor, "row d_mlp"],
    places: Int[Tensor, " token"],
    first: Int[Tensor, " first"],
) -> Int[Tensor, " token"]:
    """Adds one layer of one batch; gives how many neurons fire at each token.

    Args:
        state: The counts, changed in place.
        layer: Which layer.
        post: a at every position of the batch, padding included; it may be on another device.
        places: The rows that count.
        first: The rows of first positions.
    """
    device = state["fired"].device
    counts = count(post, places, first)
    found = Counts(*(x.to(device, non_blocking=True) for x in counts))
    state["fired"][layer] += found.fired
    state["fired_first"][layer] += found.fired_first
    state["sized"][layer] += found.sized
    state["active"][layer].index_add_(0, found.active, torch.ones_like(found.active))
    state["max_post"][layer].copy_(torch.maximum(state["max_post"][layer], found.top))
    state["overflow"][layer] += found.overflow
    state["nan"][layer] += found.nan
    return found.active


def add_batch(
    state: State, tokens: CountedTokens, n_first: int, active: Int[Tensor, "token layer"]
) -> None:
    """Adds what all layers of one batch say together.

    Args:
        state: The counts, changed in place.
        tokens: Which tokens they are.
        n_first: First positions in the batch.
        active: How many neurons fire at each.
    """
    device = active.device
    ids, positions = (
        window_means.places(tokens.ids, device),
        window_means.places(tokens.positions, device),
    )
    ones = torch.ones(len(tokens), dtype=torch.int64, device=device)
    state["position_active"].index_add_(0, positions, active)
    state["position_tokens"].index_add_(0, positions, ones)
    state["id_active"].index_add_(0, ids, active)
    state["id_tokens"].index_add_(0, ids, ones)
    # Exact: a batch's sums of products of counts stay far below 2^53.
    wide = active.double()
    state["products"] += (wide.T @ wide).long()
    state["tokens"] += len(tokens)
    state["first"] += n_first
    kept = np.flatnonzero(tokens.numbers < len(state["kept_ids"]))
    if len(kept):
        rows, to = (
            window_means.places(kept, device),
            window_means.places(tokens.numbers[kept], device),
        )
        state["kept_active"][to] = active[rows].int()
        state["kept_ids"][to] = ids[rows].int()
        state["kept_positions"][to] = positions[rows].int()


def finished(state: State) -> State:
    """The state on the CPU, its kept rows cut to those that were filled."""
    state = {name: tensor.cpu() for name, tensor in state.items()}
    # First positions are not counted, so a position of 0 is a row without a token.
    filled = state["kept_positions"] != 0
    for name in KEPT_ROWS:
        state[name] = state[name][filled].clone()
    # Nor has a token the number 0 in a window of the checksum 0: a row of zeros was not reached.
    reached = (state["drawn_order"] != 0) | (state["drawn_windows"] != 0)
    for name in ("drawn_masks", "drawn_order", "drawn_windows"):
        state[name] = state[name][reached].clone()
    return state


def kept_rows(state: State) -> dict[str, int]:
    """How many rows are kept at most of what is kept token by token, by name."""
    most = kept_tokens.rows(*state["fired"].shape)
    return KEPT_ROWS | {name: most for name in state if name.startswith("drawn_")}


def contradiction(state: State) -> str | None:
    """What in counts that were read cannot be; None where they agree with each other.

    Args:
        state: On the CPU, of the right names, shapes and dtypes; before or after `finished`.

    Returns:
        A few words, such as "active neurons of a layer are not counted at N tokens".
    """
    n, first = int(state["tokens"][0]), int(state["first"][0])
    numbers = torch.arange(state["active"].shape[1])
    fired, squares = state["active"] @ numbers, state["active"] @ numbers**2
    products, top = state["products"], state["max_post"]
    impossible = {
        "a count is negative": any(bool((x < 0).any()) for x in state.values()),
        "the largest value is NaN": bool(top.isnan().any()),
        "the activations hold NaN": bool(state["nan"].any()),
        "a layer is not counted at all N tokens": bool((state["active"].sum(1) != n).any()),
        "a neuron fired on more than N tokens": bool((state["fired"] > n).any()),
        "a neuron fired on too many first positions": bool((state["fired_first"] > first).any()),
        "more than N tokens overflow": bool((state["overflow"] > n).any()),
        "the positions are not those of N tokens": int(state["position_tokens"].sum()) != n,
        "the token ids are not those of N tokens": int(state["id_tokens"].sum()) != n,
        "firings by neuron and by token differ": not torch.equal(state["fired"].sum(1), fired),
        "firings by position differ": not torch.equal(state["position_active"].sum(0), fired),
        "firings by token id differ": not torch.equal(state["id_active"].sum(0), fired),
        "firings by size differ": bool((state["sized"].sum(1) != fired).any()),
        "products of layers differ": not (
            torch.equal(products, products.T) and torch.equal(products.diagonal(), squares)
        ),
    }
    limits = {
        "kept_active": len(numbers),
        "kept_ids": len(state["id_tokens"]),
        "kept_positions": len(state["position_tokens"]),
    }
    for name, limit in limits.items():
        impossible[f"{name} is out of range"] = bool((state[name] >= limit).any())
    return next((what for what, found in impossible.items() if found), None)
