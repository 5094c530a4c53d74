"""How large activations are: pairs of token and neuron counted by size, at every token.

The bin of a number is given by its first 16 bits as fp32: exponent and seven bits of the fraction,
the rest cut off. So a bfloat16 has a bin of its own; any other number is known down to a factor of
1 + 2^-7; and every power of two from 2^-40 to 2^39 begins a bin, in every dtype. The first bin also
holds all that is smaller, the last all that is larger. Zeros are in no bin.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

LOWEST, OCTAVES, PER_OCTAVE = -40, 80, 128
BINS = OCTAVES * PER_OCTAVE
_LAYOUT = {  # dtype -> the integer of its bits, bits beyond the seventh of the fraction, bias
    torch.bfloat16: (torch.int16, 0, 127),
    torch.float32: (torch.int32, 16, 127),
    torch.float64: (torch.int64, 45, 1023),
}
_PIECE = 2**24  # activations binned together where all are: fp32 counts no further


def bins_from_firings(a: Float[Tensor, " firing"]) -> Int[Tensor, " bin"]:
    """How many of a list of activations above 0, on a CPU, are in each bin."""
    first, low = _first_bits(a)
    # What is outside is put into the end bins afterwards: cheaper than to clamp each.
    counts = torch.bincount(first, minlength=low + BINS)
    found = counts[low : low + BINS].clone()
    found[0] += counts[:low].sum()
    found[-1] += counts[low + BINS :].sum()
    return found


def bins_from_dense(post: Float[Tensor, "token d_mlp"]) -> Int[Tensor, " bin"]:
    """The same from all activations, zeros included, on any device; nothing is read from it."""
    # Whole numbers below 2^24 are exact in fp32, and CUDA counts int32 in an order that does not
    # matter, which it says of no float.
    kind = torch.int32 if post.device.type == "cuda" else torch.float32
    found = torch.zeros(BINS, dtype=torch.int64, device=post.device)
    for piece in post.split(max(1, _PIECE // post.shape[1])):
        # What is outside of the bins, as zeros are made to be, is not counted and costs nothing.
        bins = torch.where(piece > 0, places(piece), -1).to(kind)
        found += torch.histc(bins, BINS, min=0, max=BINS).long()
    return found


def places(x: Float[Tensor, "*any"]) -> Int[Tensor, "*any"]:
    """The bin of each number above 0."""
    first, low = _first_bits(x)
    return first.sub(low).clamp_(0, BINS - 1)


def values() -> Float[np.ndarray, " bin"]:
    """The number at which each bin begins."""
    octave, part = np.divmod(np.arange(BINS), PER_OCTAVE)
    return np.ldexp(1 + part / PER_OCTAVE, octave + LOWEST)


def _first_bits(x: Float[Tensor, "*any"]) -> tuple[Int[Tensor, "*any"], int]:
    """Exponent and seven bits of the fraction as a number, and that of the first bin."""
    wide = x.float() if x.dtype == torch.float16 else x
    kind, spare, bias = _LAYOUT[wide.dtype]
    bits = wide.view(kind)
    return bits >> spare if spare else bits, (bias + LOWEST) * PER_OCTAVE
