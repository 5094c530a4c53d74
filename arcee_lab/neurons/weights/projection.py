"""The unembedding and the embeddings as neurons meet them: with the norms' weights, centred."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from arcee_lab.errors import ModelError
from arcee_lab.model.anatomy import Anatomy, anatomy_of
from arcee_lab.model.wrappers.adapters import effective_weight


class Mlp(NamedTuple):
    """The weights of one layer's MLP, adapters included, as neurons meet them.

    Attributes:
        down: What each neuron writes, `down_proj`.
        up: What each neuron reads: `up_proj` times the weight of the norm before it.
    """

    down: Float[Tensor, "d_model d_mlp"]
    up: Float[Tensor, "d_mlp d_model"]


def causal_anatomy(model: nn.Module, *, what: str) -> Anatomy:
    """The anatomy of a language model.

    Raises:
        ModelError: The model has another head, or none.
    """
    anatomy = anatomy_of(model)
    if anatomy.legend.head != "causal":
        raise ModelError(
            f"{what} reads the unembedding, and {type(anatomy.model).__name__} has none; expected "
            "a language model: al.load(..., head='causal')."
        )
    return anatomy


def unembedding(anatomy: Anatomy) -> Float[Tensor, "vocab d_model"]:
    """The rows of the unembedding times the final norm's weight, centred over the vocabulary.

    The softmax does not see what all logits share, so the mean row is taken off: a product with it
    is a logit minus the mean logit. fp32, or fp64 where the model is.
    """
    model: Any = anatomy.model
    norm: Any = anatomy.module("norm")
    weight = wide(effective_weight(model.lm_head)) * wide(norm.weight.detach())
    return weight - weight.mean(dim=0)


def embeddings(anatomy: Anatomy) -> Float[Tensor, "vocab d_model"]:
    """The rows of the embedding."""
    table: Any = anatomy.model.get_input_embeddings()
    if hasattr(table, "base_layer"):  # an adapter's embedding is what it gives for each token
        rows = torch.arange(anatomy.size("vocab"), device=table.weight.device)
        with torch.no_grad():
            return wide(table.forward(rows).detach())
    return wide(table.weight.detach())


def mlp_of(anatomy: Anatomy, layer: int) -> Mlp:
    """The weights of one layer's MLP."""
    mlp: Any = anatomy.module(f"layers.{layer}.mlp")
    norm: Any = anatomy.module(f"layers.{layer}.post_attention_layernorm")
    up = wide(effective_weight(mlp.up_proj)) * wide(norm.weight.detach())
    return Mlp(wide(effective_weight(mlp.down_proj)), up)


def wide(x: Tensor) -> Tensor:
    """At least fp32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
