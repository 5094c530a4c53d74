"""Which neurons fire, counted at every token: the arithmetic of the core.

Summing a table of booleans is slow on a CPU (torch widens each to 8 bytes), so there the sums run
over bytes, which hold a count of at most 255 rows at a time, and comparisons run over the bits of
the floats: a float that is not negative orders as its bits do. Elsewhere torch's own sums are
fastest. Both are exact, and neither reads from a device.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

OVERFLOW = 65504.0  # the largest float16
_BITS = {
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
_ROWS = 255  # what a byte can count to


def firing(
    post: Float[Tensor, "token d_mlp"],
) -> tuple[Int[Tensor, " token"], Int[Tensor, " d_mlp"]]:
    """How many neurons fire at each token, and on how many tokens each neuron fires; int64.

    A neuron fires where a is not 0, as the model computed it: in fp16 a square that underflows is a
    zero, and the down projection gets nothing from it.
    """
    if post.device.type == "cpu":
        return _firing_on_bytes(post)
    mask = post != 0
    return mask.sum(1), mask.sum(0)


def _firing_on_bytes(post: Tensor) -> tuple[Tensor, Tensor]:
    n_tokens, d_mlp = post.shape
    active = np.zeros(n_tokens, np.int64)
    fired = np.zeros(d_mlp, np.int64)
    # A plain ReLU may hand on -0.0, whose bits are not 0: shifting the sign out makes it one.
    bits = post.detach().view(_BITS[post.dtype]).numpy()
    signed = bool(bits.size) and bits.min() < 0
    for start in range(0, n_tokens, _ROWS):
        rows = bits[start : start + _ROWS]
        mask = (rows << 1 if signed else rows) != 0
        active[start : start + _ROWS] = np.count_nonzero(mask, axis=1)
        fired += mask.view(np.uint8).sum(0, dtype=np.uint8)
    return torch.from_numpy(active), torch.from_numpy(fired)


def extremes(
    post: Float[Tensor, "token d_mlp"],
) -> tuple[Float[Tensor, ""], Int[Tensor, ""], Int[Tensor, ""]]:
    """The largest value, the tokens with one above 65504, and 1 where there is a NaN (else 0).

    A value above 65504, the largest float16, is one with relu(u) above 255.9: it overflows there.
    """
    if post.device.type == "cpu" and len(post):
        bits = post.detach().view(_BITS[post.dtype])
        if bits.numpy().min() >= 0:
            top = torch.from_numpy(np.asarray(bits.numpy().max())).view(post.dtype).float()
            if top <= OVERFLOW:  # false for NaN
                none = torch.zeros((), dtype=torch.int64)
                return top, none, none
    if not len(post):
        none = torch.zeros((), dtype=torch.int64, device=post.device)
        return none.float(), none, none
    tops = post.amax(1)
    nan = tops.isnan()
    top = torch.where(nan, 0.0, tops.float()).amax()
    return top, (tops > OVERFLOW).sum(), nan.any().long()
