"""Finds the hook points of a loaded model by any accepted spelling."""

from functools import lru_cache
from typing import NamedTuple

from torch import nn

from arcee_lab.errors import ModelError
from arcee_lab.model.attention import ArceeAttention
from arcee_lab.model.heads import (
    ArceeForQuestionAnswering,
    ArceeForSequenceClassification,
    ArceeForTokenClassification,
)
from arcee_lab.model.layers import HookPoint
from arcee_lab.model.modeling import ArceeForCausalLM, ArceeModel, ArceePreTrainedModel
from arcee_lab.model.wrappers.unwrap import unwrap
from arcee_lab.sites import Legend

HEADS: dict[str, type[ArceePreTrainedModel]] = {
    "base": ArceeModel,
    "causal": ArceeForCausalLM,
    "sequence": ArceeForSequenceClassification,
    "token": ArceeForTokenClassification,
    "qa": ArceeForQuestionAnswering,
}
# What is new in a model with a head: its last linear map.
LAST_STEP = {"causal": "lm_head", "sequence": "score", "token": "score", "qa": "qa_outputs"}

_SIZES = {  # axis -> where the configuration holds its length
    "head": "num_attention_heads",
    "kv_head": "num_key_value_heads",
    "d_head": "head_dim",
    "d_model": "hidden_size",
    "d_mlp": "intermediate_size",
    "vocab": "vocab_size",
    "n_labels": "num_labels",
}


# A named tuple, not a dataclass: one is made for every block that is opened.
class Anatomy(NamedTuple):
    """A model, its backbone and its legend.

    Attributes:
        model: The whole model, outside of any wrapper.
        backbone: Its `ArceeModel`.
        legend: Names and order of its hook points.
    """

    model: ArceePreTrainedModel
    backbone: ArceeModel
    legend: Legend

    def resolve(self, filters: object) -> list[str]:
        """Canonical names that the filters ask for, in forward order; see `Legend.resolve`."""
        if isinstance(filters, list):
            filters = tuple(filters)
        try:
            return list(_resolve(self.legend, filters))  # type: ignore[arg-type]
        except TypeError:
            raise ModelError(
                f"sites is a name or a list of names; got {type(filters).__name__}."
            ) from None

    def hook_point(self, name: str) -> HookPoint:
        """The module of a canonical name."""
        return self.module(name)  # type: ignore[return-value]

    def attention(self, name: str) -> ArceeAttention:
        """The attention module that a `self_attn` site belongs to."""
        return self.module(name.rsplit(".", 1)[0])  # type: ignore[return-value]

    def module(self, path: str) -> nn.Module:
        """The module at a path inside the backbone, or `hook_logits`."""
        module: nn.Module = self.model if path == "hook_logits" else self.backbone
        for part in path.split("."):
            child = module._modules.get(part)
            if child is None:  # a layer may be wrapped by itself, as by torch.compile
                child = unwrap(module)._modules.get(part)
            if child is None:
                raise ModelError(
                    f"{path} is no longer a module of this model: something replaced its modules, "
                    "as TransformerLens does with a model that it wraps. Load the model again, and "
                    "wrap a copy of it."
                )
            module = child
        return module

    def size(self, axis: str) -> int:
        """Length of an axis that the configuration fixes.

        Raises:
            KeyError: For batch, pos, q_pos and k_pos, which only a call fixes.
        """
        if axis == "1":
            return 1
        if axis == "n_labels" and self.legend.head == "qa":
            return 2
        size = getattr(self.model.config, _SIZES[axis])
        assert size is not None
        return size


@lru_cache(maxsize=256)
def _resolve(legend: Legend, filters: str | tuple[str, ...]) -> tuple[str, ...]:
    return tuple(legend.resolve(filters))


@lru_cache(maxsize=64)
def _legend(n_layers: int, head: str) -> Legend:
    # One object for equal ones: what is cached by legend compares by identity first.
    return Legend(n_layers, head)


def anatomy_of(model: nn.Module) -> Anatomy:
    """Returns the anatomy of one of our models, through the wrappers that `unwrap` knows.

    Raises:
        ValueError: If the model is not one of arcee_lab's classes.
    """
    inner = model if isinstance(model, ArceePreTrainedModel) else unwrap(model)
    for head, cls in HEADS.items():
        if isinstance(inner, cls):
            backbone = inner if isinstance(inner, ArceeModel) else inner.model
            assert isinstance(backbone, ArceeModel)
            return Anatomy(inner, backbone, _legend(len(backbone.layers), head))
    raise ModelError(
        "Expected a model of arcee_lab, whose hook points are modules; got "
        f"{type(inner).__module__}.{type(inner).__qualname__}"
        f"{'' if inner is model else f' inside a {type(model).__name__}'}. Load it with "
        "al.load(...), or call al.register() before transformers' Auto classes build it"
        f"{'' if inner is model else ', and wrap what they give'}."
    )
