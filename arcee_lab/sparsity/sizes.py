"""How large activations are: pairs of token and neuron counted by size, at every token.

The bin of a number is told by its first 16 bits as fp32: exponent and seven bits of the fraction,
the rest cut off. So a bfloat16 has a bin of its own; any other number is known down to a factor of
1 + 2^-7; and every power of two from 2^-40 to 2^39 begins a bin, in every dtype. The first bin also
holds all that is smaller, the last all that is larger. Two histograms a layer are kept: of a, and
of what a neuron adds to the output,

    c = a_i ‖w_i‖        in the dtype of a, ‖w_i‖ rounded to it (fp16 is multiplied in fp32)

which in bfloat16 is right to 2^-8, two roundings. Zeros are in no bin.
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


def of_firings(
    a: Float[Tensor, " firing"], norms: Float[Tensor, " firing"]
) -> tuple[Int[Tensor, " bin"], Int[Tensor, " bin"]]:
    """How many lie in each bin, of a list on a CPU.

    Args:
        a: Activations above 0.
        norms: ‖w‖ of the neuron of each, in the dtype of a.

    Returns:
        Counts of a, and of c.
    """
    return _histogram(a), _histogram(_times(a, norms))


def of_dense(
    post: Float[Tensor, "token d_mlp"], norms: Float[Tensor, " d_mlp"]
) -> Int[Tensor, "2 bin"]:
    """The same from all activations, zeros included, on any device; nothing is read from it.

    Args:
        post: a.
        norms: ‖w‖, in the dtype of a.
    """
    # Whole numbers below 2^24 are exact in fp32, and CUDA counts int32 in an order that does not
    # matter, which it says of no float.
    kind = torch.int32 if post.device.type == "cuda" else torch.float32
    found = torch.zeros(2, BINS, dtype=torch.int64, device=post.device)
    for piece in post.split(max(1, _PIECE // post.shape[1])):
        fires = piece > 0
        for place, x in enumerate((piece, _times(piece, norms))):
            # What lies outside of the bins, as zeros are made to, is not counted and costs nothing.
            first, low = _first_bits(x)
            bins = torch.where(fires, first.sub(low).clamp_(0, BINS - 1), -1).to(kind)
            found[place] += torch.histc(bins, BINS, min=0, max=BINS).long()
    return found


def values() -> Float[np.ndarray, " bin"]:
    """The number at which each bin begins."""
    octave, part = np.divmod(np.arange(BINS), PER_OCTAVE)
    return np.ldexp(1 + part / PER_OCTAVE, octave + LOWEST)


def _times(a: Tensor, norms: Tensor) -> Tensor:
    return a.float() * norms.float() if a.dtype == torch.float16 else a * norms


def _histogram(x: Float[Tensor, " firing"]) -> Int[Tensor, " bin"]:
    first, low = _first_bits(x)
    # What lies outside is put into the end bins afterwards: cheaper than to clamp each.
    counts = torch.bincount(first, minlength=low + BINS)
    found = counts[low : low + BINS].clone()
    found[0] += counts[:low].sum()
    found[-1] += counts[low + BINS :].sum()
    return found


def _first_bits(x: Float[Tensor, "*any"]) -> tuple[Int[Tensor, "*any"], int]:
    """Exponent and seven bits of the fraction as a number, and that of the first bin."""
    wide = x.float() if x.dtype == torch.float16 else x
    kind, spare, bias = _LAYOUT[wide.dtype]
    bits = wide.view(kind)
    return bits >> spare if spare else bits, (bias + LOWEST) * PER_OCTAVE
