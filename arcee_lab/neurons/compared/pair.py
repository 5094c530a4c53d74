"""Two models whose neurons correspond: same shapes, same vocabulary, one ancestor."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from arcee_lab.errors import ModelError, SettingError
from arcee_lab.model.anatomy import Anatomy, anatomy_of
from arcee_lab.model.fingerprint import model_name
from arcee_lab.model.wrappers.adapters import effective_weight
from arcee_lab.neurons.ablation.named import Neuron, neuron_of
from arcee_lab.neurons.weights.projection import wide

_SHAPE = (
    "vocab_size",
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "mlp_bias",
)


class Weights(NamedTuple):
    """The neurons of one layer, adapters included, in the model's dtype.

    Attributes:
        up: What each neuron reads.
        bias: What is added to it; None without a bias.
        down: What each neuron writes.
    """

    up: Float[Tensor, "d_mlp d_model"]
    bias: Float[Tensor, " d_mlp"] | None
    down: Float[Tensor, "d_model d_mlp"]


class ModelPair(NamedTuple):
    """A base model and one that was tuned from it.

    Attributes:
        base: Anatomy of the base.
        tuned: Anatomy of the other.
    """

    base: Anatomy
    tuned: Anatomy

    @classmethod
    def of(cls, base: nn.Module, tuned: nn.Module) -> "ModelPair":
        """Checks that both have the same shapes and vocabulary.

        Raises:
            ModelError: They differ, or one is no Arcee model.
            SettingError: They are one object.
        """
        one, other = anatomy_of(base), anatomy_of(tuned)
        if one.backbone is other.backbone:
            raise SettingError(
                "base and tuned are one model; expected two checkpoints, each loaded by al.load."
            )
        for name in _SHAPE:
            a, b = (getattr(anatomy.model.config, name, None) for anatomy in (one, other))
            if a != b:
                raise ModelError(
                    f"base has {name} {a} and tuned {b}; expected two models of one shape and "
                    "vocabulary, whose neurons correspond."
                )
        kinds = [anatomy.model.dtype for anatomy in (one, other)]
        if kinds[0] != kinds[1]:
            raise ModelError(
                f"base is in {kinds[0]} and tuned in {kinds[1]}; load both with one dtype=, so "
                "that a difference is no rounding."
            )
        return cls(one, other)

    @property
    def names(self) -> tuple[str, str]:
        """What the two are called."""
        return model_name(self.base.model), model_name(self.tuned.model)

    @property
    def layers(self) -> int:
        """How many layers each has."""
        return len(self.base.backbone.layers)

    @property
    def d_mlp(self) -> int:
        """How many neurons each layer has."""
        return self.base.size("d_mlp")

    def neurons(self, given: Any) -> tuple[Neuron, ...]:
        """Neurons as callers write them, in the order given.

        Args:
            given: A list of `(layer, unit)`, "L1/N32", or objects with `layer` and `unit`.

        Raises:
            SettingError: None, one that the models lack, or one that is named twice.
        """
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise SettingError(
                f"neurons is {given!r:.80}; expected a list of neurons, such as [(1, 32), (3, 8)]."
            )
        named = [neuron_of(one, layers=self.layers, d_mlp=self.d_mlp) for one in given]
        if not named:
            raise SettingError("neurons is empty; expected at least one, such as (1, 32).")
        if len(set(named)) < len(named):
            twice = next(str(one) for one in named if named.count(one) > 1)
            raise SettingError(f"neurons names {twice} twice; name each once.")
        return tuple(named)

    def by_layer(self, given: Any) -> dict[int, list[int]]:
        """The same neurons as units by layer."""
        found: dict[int, list[int]] = {}
        for layer, unit in self.neurons(given):
            found.setdefault(layer, []).append(unit)
        return found


def weights_of(anatomy: Anatomy, layer: int) -> Weights:
    """The neurons of one layer."""
    mlp: Any = anatomy.module(f"layers.{layer}.mlp")
    bias = getattr(mlp.up_proj, "bias", None)
    return Weights(
        effective_weight(mlp.up_proj),
        None if bias is None else bias.detach(),
        effective_weight(mlp.down_proj),
    )


def cosines(a: Float[Tensor, "*n d"], b: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
    """Cosine of each pair of vectors, fp32 or wider; 1 for two equal ones, also of zeros."""
    a, b = wide(a), wide(b)
    lengths = a.norm(dim=-1) * b.norm(dim=-1)
    found = (a * b).sum(-1) / lengths.clamp(min=torch.finfo(a.dtype).tiny)
    return torch.where((a == b).all(-1), torch.ones_like(found), found.clamp(-1, 1))


def require_one_ancestor(reads: Float[Tensor, "layer d_mlp"], d_model: int) -> None:
    """Checks that neurons correspond: unrelated directions have cosines of about 1 / sqrt(d_model).

    Args:
        reads: Cosine of each neuron's two rows of `up_proj`.
        d_model: Their length.

    Raises:
        ModelError: The median is within three standard deviations of 0, or below .5 in a model so
            narrow that three are more.
    """
    median, bound = float(reads.median()), min(0.5, 3 / d_model**0.5)
    if median < bound:
        raise ModelError(
            f"the neurons of base and tuned do not correspond: the median cosine of their rows of "
            f"up_proj is {median:.3f}, and below {bound:.3f} they may be unrelated; expected two "
            "checkpoints with one ancestor."
        )
