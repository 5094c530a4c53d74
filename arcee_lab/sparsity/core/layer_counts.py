"""What fires and how strongly, counted at every token: the arithmetic of the core.

Summing a table of booleans is slow on a CPU (torch widens each to 8 bytes), so there a few rows at
a time, which its cache holds, are counted in one go. A neuron's tokens are counted over bytes,
which hold a count of at most 255 rows. What is not 0 is listed, as the bits of the floats: from the
list come a token's neurons, the histograms of `sizes`, and the largest value, since floats that are
not negative order as their bits do. Elsewhere torch's own sums are fastest. Both are exact, and
neither reads from a device.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from arcee_lab.sparsity.core import magnitudes, packed_masks

OVERFLOW = 65504.0  # the largest float16
_INTEGERS = {
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
_ROWS = 255  # what a byte can count to
_LISTED = 2**19  # activations above 0 whose sizes are counted together


class Counts(NamedTuple):
    """What a layer's activations say at some tokens of a batch; counts are int64.

    Attributes:
        active: How many neurons fire at each token.
        fired: On how many of the tokens each neuron fires.
        fired_first: The same over the first positions.
        sized: How many of the tokens' activations are in each bin of `sizes`.
        top: The largest value over the tokens.
        overflow: Tokens with a value above 65504, the largest float16: relu(u) above 255.9.
        nan: 1 where there is a NaN (else 0).
    """

    active: Int[Tensor, " token"]
    fired: Int[Tensor, " d_mlp"]
    fired_first: Int[Tensor, " d_mlp"]
    sized: Int[Tensor, " bin"]
    top: Float[Tensor, ""]
    overflow: Int[Tensor, ""]
    nan: Int[Tensor, ""]


def count(
    post: Float[Tensor, "row d_mlp"],
    places: Int[Tensor, " token"],
    first: Int[Tensor, " first"],
) -> Counts:
    """Counts of one layer over a batch.

    A neuron fires where a is not 0, as the model computed it: in fp16 a square that underflows is a
    zero, and the down projection gets nothing from it.

    Args:
        post: a at every position of the batch, padding included; nowhere below 0.
        places: The rows that count.
        first: The rows of first positions.
    """
    if post.device.type == "cpu":
        return _count_on_bits(post.detach(), places.numpy(), first.numpy())
    return count_dense(post, places, first)


def count_dense(
    post: Float[Tensor, "row d_mlp"],
    places: Int[Tensor, " token"],
    first: Int[Tensor, " first"],
) -> Counts:
    """`count` by torch's own sums."""
    counted, early = post.index_select(0, places), post.index_select(0, first)
    mask, sized = counted != 0, magnitudes.bins_from_dense(counted)
    return Counts(mask.sum(1), mask.sum(0), (early != 0).sum(0), sized, *_extremes(counted))


def bit_patterns(post: Float[Tensor, "row d_mlp"]) -> Int[np.ndarray, "row d_mlp"]:
    """The bits of each a on a CPU, without the sign of -0.0, which a plain ReLU may hand on."""
    patterns = _patterns(post)
    if patterns.size and patterns.min() < 0:
        return patterns & np.iinfo(patterns.dtype).max
    return patterns


def _count_on_bits(post: Tensor, places: np.ndarray, first: np.ndarray) -> Counts:
    n_rows, d_mlp = post.shape
    patterns = _patterns(post)
    counts_here = np.zeros(n_rows, bool)
    counts_here[places] = True
    active, fired = np.zeros(n_rows, np.int64), np.zeros(d_mlp, np.int64)
    sized, largest = torch.zeros(magnitudes.BINS, dtype=torch.int64), 0
    together = min(max(packed_masks.TOGETHER // d_mlp, 1), _ROWS)
    mask = np.empty((together, d_mlp), bool)
    # One array for all pieces, since to put many together costs as much as to count them.
    listed = np.empty(_LISTED + mask.size, patterns.dtype)
    n_listed, all_count = 0, len(places) == n_rows
    for start in range(0, n_rows, _ROWS):
        stop = min(start + _ROWS, n_rows)
        so_far = np.zeros(d_mlp, np.uint8)
        for at in range(start, stop, together):
            here = slice(at, min(at + together, stop))
            rows = patterns[here]
            if not (whole := all_count or counts_here[here].all()):
                rows = rows[counts_here[here]]
            hits = np.not_equal(rows, 0, out=mask[: len(rows)])
            so_far += hits.view(np.uint8).sum(0, dtype=np.uint8)
            found = packed_masks.pick(rows, hits, into=listed[n_listed:])
            if whole:
                active[here] = found[0]
            else:
                active[here][counts_here[here]] = found[0]
            n_listed += len(found[1])
            if n_listed < _LISTED and here.stop < n_rows:
                continue
            a, n_listed = listed[:n_listed], 0
            if len(a) and a.min() < 0:
                # -0.0, or a NaN with a sign: once more, without signs.
                unsigned = torch.from_numpy(bit_patterns(post)).view(post.dtype)
                return _count_on_bits(unsigned, places, first)
            largest = max(largest, a.max(initial=0))
            sized += magnitudes.bins_from_firings(torch.from_numpy(a).view(post.dtype))
        fired += so_far
    of_token, of_neuron = torch.from_numpy(active[places]), torch.from_numpy(fired)
    early = torch.from_numpy((bit_patterns(post[first]) != 0).sum(0))
    top = torch.from_numpy(np.array([largest], patterns.dtype)).view(post.dtype).float()[0]
    if top <= OVERFLOW:  # false for NaN
        none = torch.zeros((), dtype=torch.int64)
        return Counts(of_token, of_neuron, early, sized, top, none, none)
    return Counts(of_token, of_neuron, early, sized, *_extremes(post[places]))


def _extremes(post: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if not len(post):
        none = torch.zeros((), dtype=torch.int64, device=post.device)
        return none.float(), none, none
    tops = post.amax(1)
    nan = tops.isnan()
    top = torch.where(nan, 0.0, tops.float()).amax()
    return top, (tops > OVERFLOW).sum(), nan.any().long()


def _patterns(x: Tensor) -> np.ndarray:
    return x.detach().view(_INTEGERS[x.dtype]).numpy()
