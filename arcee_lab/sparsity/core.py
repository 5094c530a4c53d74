"""The core, at every token: zeros, active neurons, rates, sizes, positions and token ids.

Rows 1, 2, 3, 12 (the largest value), 13, 14 and 19 (correlation of layers) stand on these
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

from arcee_lab.sparsity import drawn, exact, sizes
from arcee_lab.sparsity.analysis import Shape, State, Tokens
from arcee_lab.sparsity.counting import Counts, count

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
        "sized": zeros(layers, sizes.BINS),
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
        **drawn.new_state(shape, device),
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
        post: a at every position of the batch, padding included; it may lie on another device.
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
    state: State, tokens: Tokens, n_first: int, active: Int[Tensor, "token layer"]
) -> None:
    """Adds what all layers of one batch say together.

    Args:
        state: The counts, changed in place.
        tokens: Which tokens they are.
        n_first: First positions in the batch.
        active: How many neurons fire at each.
    """
    device = active.device
    ids, positions = exact.places(tokens.ids, device), exact.places(tokens.positions, device)
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
        rows, to = exact.places(kept, device), exact.places(tokens.numbers[kept], device)
        state["kept_active"][to] = active[rows].int()
        state["kept_ids"][to] = ids[rows].int()
        state["kept_positions"][to] = positions[rows].int()


def finished(state: State) -> State:
    """The state on the CPU, its kept rows cut to those that were filled."""
    state = {name: tensor.cpu() for name, tensor in state.items()}
    tokens = int(state["tokens"][0])
    for name, most in kept_rows(state).items():
        state[name] = state[name][: min(tokens, most)].clone()
    return state


def kept_rows(state: State) -> dict[str, int]:
    """How many rows are kept at most of what is kept token by token, by name."""
    most = drawn.rows(*state["fired"].shape)
    return KEPT_ROWS | {name: most for name in state if name.startswith("drawn_")}
