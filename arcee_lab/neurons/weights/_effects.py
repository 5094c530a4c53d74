"""`effects`: what each neuron does to the logits, and which tokens it reads, from the weights."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from arcee_lab.errors import SettingError
from arcee_lab.model.anatomy import Anatomy
from arcee_lab.neurons.weights.classes import Moments, classes_of, moments
from arcee_lab.neurons.weights.projection import causal_anatomy, embeddings, mlp_of, unembedding
from arcee_lab.neurons.weights.result import Effects
from arcee_lab.runs.arguments import checked

_AT_ONCE = 2**24  # products of neurons and tokens that are held at a time: 64 MiB in fp32


@torch.no_grad()
@checked
def effects(
    model: nn.Module,
    tokenizer: Any = None,
    *,
    layers: int | Sequence[int] | None = None,
    units: int | Sequence[int] | None = None,
    top: int = 10,
    kurtosis: float = 10.0,
    partition: float = 0.99,
    entropy: tuple[float, float] = (0.9, 0.1),
) -> Effects:
    """What each neuron adds to the logits and which embeddings it reads, without running the model.

    The effect of a neuron on a token's logit is its column of `down_proj` through the final norm's
    weight and the token's row of the unembedding, minus the mean over the vocabulary, which does
    not change the softmax. It leaves out the norm's scale, which is one positive number per token
    of text, and what later layers do with the neuron's output. On the input side are the
    embeddings with the largest cosine to the neuron's row of `up_proj` times the weight of the
    norm before it.

    The moments are those of the cosines between what the neuron writes and the centred rows of the
    unembedding, as in Gurnee et al., "Universal Neurons in GPT2 Language Models",
    arXiv:2401.12181, whose classes these are; the first that fits is given:

    * "prediction": kurtosis above `kurtosis` and positive skew: it promotes a few tokens;
    * "suppression": kurtosis above `kurtosis` and negative skew;
    * "entropy": a norm above the quantile `entropy[0]` and a variance below `entropy[1]`: it
      writes much where the unembedding reads little, and so acts on the norm's scale;
    * "partition": a variance above the quantile `partition`: it raises many tokens and lowers many.

    The paper's threshold of the kurtosis is 10 (3 is that of a normal distribution), and its
    comparison neurons exclude the largest tenth of norms and the smallest tenth of variances; for
    partition neurons it gives no number, so .99 is ours.

    Args:
        model: One of arcee_lab's language models; unembeddings may be tied, and layers may
            have adapters.
        tokenizer: Its tokenizer, to show tokens; without it their ids are shown.
        layers: Layers to read, negative from the end; all by default.
        units: Neurons of each layer; all by default. Quantiles need whole layers, so if only
            some neurons are chosen, the only classes are "prediction" and "suppression".
        top: Tokens to keep at each end.
        kurtosis: See above.
        partition: See above; a quantile over the neurons of `layers`.
        entropy: See above; quantiles over the neurons of `layers`.

    Returns:
        One row per neuron: tokens at both ends, moments, class, nearest embeddings.

    Raises:
        ModelError: The model is no language model.
        SettingError: An index or a threshold is out of its range.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> found = al.neurons.effects(model, tokenizer, layers=-1, units=[3, 4], top=2)
        >>> len(found.frame())
        2
    """
    anatomy = causal_anatomy(model, what="al.neurons.effects")
    numbers = chosen(layers, len(anatomy.backbone.layers), what="layers")
    picked = chosen(units, anatomy.size("d_mlp"), what="units")
    vocab = anatomy.size("vocab")
    if not 1 <= top <= vocab:
        raise SettingError(f"top is {top}; expected 1 to {vocab}, the size of the vocabulary.")
    quantiles = (partition, *entropy)
    if kurtosis < 0 or len(quantiles) != 3 or not all(0 <= q <= 1 for q in quantiles):
        raise SettingError(
            f"kurtosis={kurtosis}, partition={partition}, entropy={entropy}; expected a kurtosis "
            "from 0, and quantiles from 0 to 1, two for entropy."
        )
    pieces = list(_pieces(anatomy, numbers, picked, top))
    found = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
    spread = Moments(found["variance"], found["skew"], found["kurtosis"])
    return Effects(
        tokenizer=tokenizer,
        layers=torch.tensor(numbers).repeat_interleave(len(picked)),
        units=torch.tensor(picked).repeat(len(numbers)),
        classes=classes_of(
            spread,
            found["norm"],
            kurtosis=kurtosis,
            partition=partition,
            entropy=entropy,
            whole=units is None,
        ),
        **found,
    )


def chosen(given: int | Sequence[int] | None, size: int, *, what: str) -> list[int]:
    """Indices from 0, each once, in the order given; negative ones count from the end.

    Raises:
        SettingError: One is out of range, named twice, or no whole number.
    """
    if given is None:
        return list(range(size))
    asked = [given] if isinstance(given, int) else list(given)
    if not asked:
        raise SettingError(f"{what} is empty; expected at least one of 0 to {size - 1}.")
    for one in asked:
        if not isinstance(one, int) or isinstance(one, bool) or not -size <= one < size:
            raise SettingError(
                f"{what} names {one!r}; expected whole numbers from 0 to {size - 1}."
            )
    found = [one % size for one in asked]
    if len(set(found)) < len(found):
        raise SettingError(f"{what} names an index twice: {asked}.")
    return found


def _pieces(
    anatomy: Anatomy, layers: list[int], units: list[int], top: int
) -> Iterator[dict[str, Tensor]]:
    """The numbers of a few neurons at a time, on the CPU, layer by layer."""
    rows = unembedding(anatomy)
    lengths = rows.norm(dim=1)
    read = embeddings(anatomy)
    read = read / _not_zero(read.norm(dim=1, keepdim=True))
    step = max(1, _AT_ONCE // len(rows))
    for layer in layers:
        mlp = mlp_of(anatomy, layer)
        for start in range(0, len(units), step):
            some = torch.tensor(units[start : start + step], device=mlp.down.device)
            written, reads = mlp.down[:, some].T, mlp.up[some]
            found = _effect(written.to(rows.device), rows, lengths, top)
            found |= _nearest(reads.to(read.device), read, top)
            found["norm"] = reads.square().sum(1) + written.square().sum(1).to(reads.device)
            yield {name: x.cpu() for name, x in found.items()}


def _effect(
    written: Float[Tensor, "neuron d_model"],
    rows: Float[Tensor, "vocab d_model"],
    lengths: Float[Tensor, " vocab"],
    top: int,
) -> dict[str, Tensor]:
    logits = written @ rows.T
    high, low = logits.topk(top, dim=1), logits.topk(top, dim=1, largest=False)
    spread = moments(logits / _not_zero(lengths) / _not_zero(written.norm(dim=1, keepdim=True)))
    return {
        "promoted": high.indices,
        "promoted_by": high.values,
        "suppressed": low.indices,
        "suppressed_by": low.values,
        **spread._asdict(),
    }


def _nearest(
    reads: Float[Tensor, "neuron d_model"], table: Float[Tensor, "vocab d_model"], top: int
) -> dict[str, Int[Tensor, "neuron top"] | Float[Tensor, "neuron top"]]:
    cosines = reads / _not_zero(reads.norm(dim=1, keepdim=True)) @ table.T
    near = cosines.topk(top, dim=1)
    return {"read": near.indices, "read_by": near.values}


def _not_zero(lengths: Tensor) -> Tensor:
    """Lengths to divide by: a row of zeros has cosine 0 with everything."""
    return lengths.clamp(min=torch.finfo(lengths.dtype).tiny)
