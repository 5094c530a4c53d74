"""Moments of a neuron's effect on the vocabulary, and the classes that follow from them."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Moments(NamedTuple):
    """Central moments over the vocabulary, without corrections for its size.

    Attributes:
        variance: Mean square around the mean.
        skew: Third standardised moment; 0 where the variance is.
        kurtosis: Fourth standardised moment, 3 for a normal distribution; 0 where the variance is.
    """

    variance: Float[Tensor, " neuron"]
    skew: Float[Tensor, " neuron"]
    kurtosis: Float[Tensor, " neuron"]


def moments(values: Float[Tensor, "neuron vocab"]) -> Moments:
    """The moments of each row."""
    off = values - values.mean(dim=1, keepdim=True)
    variance = off.square().mean(dim=1)
    deviation = variance.sqrt().clamp(min=torch.finfo(values.dtype).tiny)
    z = off / deviation[:, None]
    return Moments(variance, z.pow(3).mean(dim=1), z.pow(4).mean(dim=1))


def classes_of(
    spread: Moments,
    norm: Float[Tensor, " neuron"],
    *,
    kurtosis: float,
    partition: float,
    entropy: tuple[float, float],
    whole: bool,
) -> tuple[str, ...]:
    """The class of each neuron, "" for none; `al.neurons.effects` defines them.

    Args:
        spread: The moments of their cosines with the unembedding.
        norm: Squared lengths of what they read and write, added up.
        kurtosis: Above it a neuron acts on a few tokens.
        partition: Quantile of the variance above which a neuron moves many tokens apart.
        entropy: Quantile of the norm to be above, and quantile of the variance to be below.
        whole: Whether these are all neurons of their layers, so that quantiles mean something.
    """
    sharp = spread.kurtosis > kurtosis
    hits = {"prediction": sharp & (spread.skew > 0), "suppression": sharp & (spread.skew < 0)}
    if whole:
        large = norm > _quantile(norm, entropy[0])
        hits["entropy"] = large & (spread.variance < _quantile(spread.variance, entropy[1]))
        hits["partition"] = spread.variance > _quantile(spread.variance, partition)
    names = [""] * len(norm)
    for name, hit in reversed(hits.items()):
        for place in hit.nonzero().flatten().tolist():
            names[place] = name
    return tuple(names)


def _quantile(values: Float[Tensor, " neuron"], q: float) -> float:
    """Linear between neighbours, as torch.quantile, which takes no more than 2^24 values."""
    ordered = values.double().sort().values
    place = q * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return float(ordered[low] + (place - low) * (ordered[high] - ordered[low]))
