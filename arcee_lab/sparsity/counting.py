"""Which neurons fire, counted at every token: the arithmetic of the core.

Summing a table of booleans is slow on a CPU (torch widens each to 8 bytes), so there a token's
neurons are counted over bits, eight a byte; a neuron's tokens over bytes, which hold a count of at
most 255 rows at a time; and values are compared by the bits of the floats: a float that is not
negative orders as its bits do. All rows of a batch are counted there, those that do not count too,
and their part is taken off again: that is cheaper than to copy the others out. Elsewhere torch's
own sums are fastest. Both are exact, and neither reads from a device.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from arcee_lab.sparsity import bits

OVERFLOW = 65504.0  # the largest float16
_INTEGERS = {
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
_ROWS = 255  # what a byte can count to


class Counts(NamedTuple):
    """What a layer's activations say at some tokens of a batch; counts are int64.

    Attributes:
        active: How many neurons fire at each token.
        fired: On how many of the tokens each neuron fires.
        fired_first: The same over the first positions.
        top: The largest value over the tokens.
        overflow: Tokens with a value above 65504, the largest float16: relu(u) above 255.9.
        nan: 1 where there is a NaN (else 0).
    """

    active: Int[Tensor, " token"]
    fired: Int[Tensor, " d_mlp"]
    fired_first: Int[Tensor, " d_mlp"]
    top: Float[Tensor, ""]
    overflow: Int[Tensor, ""]
    nan: Int[Tensor, ""]


def count(
    post: Float[Tensor, "row d_mlp"], places: Int[Tensor, " token"], first: Int[Tensor, " first"]
) -> Counts:
    """Counts a layer over a batch.

    A neuron fires where a is not 0, as the model computed it: in fp16 a square that underflows is a
    zero, and the down projection gets nothing from it.

    Args:
        post: a at every position of the batch, padding included.
        places: The rows that count.
        first: The rows of first positions.
    """
    if post.device.type == "cpu":
        return _count_on_bits(post.detach(), places.numpy(), first.numpy())
    return count_dense(post, places, first)


def count_dense(
    post: Float[Tensor, "row d_mlp"], places: Int[Tensor, " token"], first: Int[Tensor, " first"]
) -> Counts:
    """`count` by torch's own sums."""
    counted, early = post.index_select(0, places), post.index_select(0, first)
    mask = counted != 0
    return Counts(mask.sum(1), mask.sum(0), (early != 0).sum(0), *_extremes(counted))


def fires(post: Float[Tensor, "row d_mlp"]) -> Bool[np.ndarray, "row d_mlp"]:
    """Where a is not 0, on a CPU."""
    patterns = _patterns(post)
    return _not_zero(patterns, _signed(patterns))


def _count_on_bits(post: Tensor, places: np.ndarray, first: np.ndarray) -> Counts:
    n_rows, d_mlp = post.shape
    patterns = _patterns(post)
    signed = _signed(patterns)
    active, tops = np.zeros(n_rows, np.int64), np.zeros(n_rows, patterns.dtype)
    fired = np.zeros(d_mlp, np.int64)
    for start in range(0, n_rows, _ROWS):
        rows = patterns[start : start + _ROWS]
        mask = _not_zero(rows, signed)
        active[start : start + _ROWS] = bits.count(bits.pack(mask))
        fired += mask.view(np.uint8).sum(0, dtype=np.uint8)
        tops[start : start + _ROWS] = rows.max(1)
    others = np.ones(n_rows, bool)
    others[places] = False
    fired -= _not_zero(patterns[others], signed).sum(0)
    fired_first = _not_zero(patterns[first], signed).sum(0)
    of_token, of_neuron = torch.from_numpy(active[places]), torch.from_numpy(fired)
    early = torch.from_numpy(fired_first)
    if len(places) and not signed:
        top = torch.from_numpy(tops[places].max(keepdims=True)).view(post.dtype).float()[0]
        if top <= OVERFLOW:  # false for NaN
            none = torch.zeros((), dtype=torch.int64)
            return Counts(of_token, of_neuron, early, top, none, none)
    return Counts(of_token, of_neuron, early, *_extremes(post[places]))


def _extremes(post: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if not len(post):
        none = torch.zeros((), dtype=torch.int64, device=post.device)
        return none.float(), none, none
    tops = post.amax(1)
    nan = tops.isnan()
    top = torch.where(nan, 0.0, tops.float()).amax()
    return top, (tops > OVERFLOW).sum(), nan.any().long()


def _patterns(post: Tensor) -> np.ndarray:
    return post.detach().view(_INTEGERS[post.dtype]).numpy()


def _signed(patterns: np.ndarray) -> bool:
    return patterns.size > 0 and bool(patterns.min() < 0)


def _not_zero(patterns: np.ndarray, signed: bool) -> np.ndarray:
    # A plain ReLU may hand on -0.0, whose bits are not 0: shifting the sign out makes it one.
    return (patterns << 1 if signed else patterns) != 0
