"""Rules that choose which neurons of a token are kept; all others are set to zero.

    top_k       the k largest a                      Li et al., "The Lazy Neuron Phenomenon",
                                                     arXiv:2210.06313
    top_norm    the k largest ‖n_i‖ = a_i ‖w_i‖      Zhang et al., "ReLU² Wins", arXiv:2402.03804
    top_p       the largest a that hold a share p    Szatkowski et al., "Universal Properties of
                of Σ a                               Activation Sparsity", arXiv:2509.00454
    spark       u > μ + σ Φ⁻¹(1 - k/d_mlp), over     You et al., "Spark Transformer", statistical
                the token's neurons                  top-k, arXiv:2506.06644
    fat         a > eps, one eps everywhere          FAT-eps in Luo et al., "Sparsing Law",
                                                     arXiv:2411.02335
    cett        ‖n_i‖ >= eps, one eps per layer      CETT, see `arcee_lab.sparsity.sampled._cett`
    random      k of the active neurons at random    the floor that any rule has to beat

One end of every rule keeps everything. Spark's own rule subtracts the threshold as
well; here kept neurons keep their values, so that all rules differ in the choice alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Layer:
    """What a rule may look at.

    Attributes:
        a: Activations.
        u: Pre-activations.
        norms: ‖w_i‖, lengths of the columns of the down projection.
        draw: Of the random rule.
    """

    a: Float[Tensor, "batch pos d_mlp"]
    u: Float[Tensor, "batch pos d_mlp"]
    norms: Float[Tensor, " d_mlp"]
    draw: torch.Generator


Kept = Bool[Tensor, "batch pos d_mlp"]


def top_k(layer: Layer, share: float) -> Kept:
    """The k largest activations, k = share of d_mlp; as `al.TopK` chooses them."""
    return largest(layer.a, count(share, layer.a))


def top_norm(layer: Layer, share: float) -> Kept:
    """The k largest ‖n_i‖."""
    return largest(layer.a.float() * layer.norms, count(share, layer.a))


def top_p(layer: Layer, p: float) -> Kept:
    """The smallest set of largest activations that holds at least p of their sum."""
    values, order = layer.a.double().sort(dim=-1, descending=True, stable=True)
    before = values.cumsum(dim=-1) - values
    wanted = before < p * values.sum(dim=-1, keepdim=True)
    return torch.zeros_like(wanted).scatter(-1, order, wanted)


def spark(layer: Layer, share: float) -> Kept:
    """Pre-activations above the quantile that a normal distribution would have there."""
    u = layer.u.float()
    quantile = torch.special.ndtri(torch.tensor(1 - share, dtype=torch.float64)).to(u)
    return u > u.mean(-1, keepdim=True) + u.std(-1, correction=0, keepdim=True) * quantile


def fat(layer: Layer, eps: float) -> Kept:
    """Activations above eps; as `al.Threshold` chooses them."""
    return layer.a > eps


def cett(layer: Layer, eps: float) -> Kept:
    """Neurons that add a vector of length eps or more; as `al.Cett` chooses them."""
    return layer.a.float() >= eps / layer.norms


def random(layer: Layer, share: float) -> Kept:
    """K of the active neurons at random; all of them where there are no more."""
    lots = torch.rand(layer.a.shape, generator=layer.draw, device=layer.a.device)
    return largest(lots.masked_fill(layer.a == 0, 0.0), count(share, layer.a))


RULES: dict[str, Callable[[Layer, float], Kept]] = {
    "top_k": top_k,
    "top_norm": top_norm,
    "top_p": top_p,
    "cett": cett,
    "fat": fat,
    "spark": spark,
    "random": random,
}


def count(share: float, a: Tensor) -> int:
    """The number of neurons that a share of d_mlp is, at least 1."""
    return max(1, round(share * a.shape[-1]))


def largest(score: Float[Tensor, "*token d_mlp"], k: int) -> Bool[Tensor, "*token d_mlp"]:
    """Which are the k largest of each token; of equals those of lower index stay."""
    last = score.topk(k, dim=-1).values[..., -1:]
    above = score > last
    room = k - above.sum(dim=-1, keepdim=True)
    equal = score == last
    return above | (equal & (equal.cumsum(dim=-1) <= room))
