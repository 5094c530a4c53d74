"""nnsight's wrapper of one of our models."""

import copy
from typing import Any

import nnsight
from nnsight.intervention.envoy import Envoy
from torch import nn
from transformers import PreTrainedTokenizerBase

from arcee_lab.errors import ModelError
from arcee_lab.hooks.tensor_parallel import shards_of
from arcee_lab.model.anatomy import anatomy_of
from arcee_lab.model.layers import HookPoint
from arcee_lab.runs.arguments import checked
from arcee_lab.trace.points import PointEnvoy

# A pipeline is what nnsight prepares inputs with. Where transformers has none for a head, one that
# loads a tokenizer and nothing else.
_TASKS = {
    "causal": "text-generation",
    "sequence": "text-classification",
    "token": "token-classification",
    "qa": "feature-extraction",
    "base": "feature-extraction",
}
# Every canonical name becomes a path from the wrapper's root, as on the backbone.
_NAMES = {"model.layers": "layers", "model.norm": "norm", "model.hook_embed": "hook_embed"}


@checked
def to_nnsight(model: nn.Module, tokenizer: PreTrainedTokenizerBase | None) -> Envoy:
    """Wraps a model for nnsight: the same module, with every site at its canonical name.

    `lm.layers[3].mlp.hook_post.output` is the neurons of layer 3, inside
    `with lm.trace("some text"):`. Naming `hook_pattern` or `hook_scores` makes them fire: to read
    one leaves the data on the fast kernel, to assign to one runs its layer's eager kernel. To edit
    one in place, set the layer's `pattern_mode = "write"` first. `al.capture` around a trace sees
    what nnsight changed.

    nnsight replaces `torch.Tensor.backward` for the whole process when it is imported, which this
    function does.

    Args:
        model: One of arcee_lab's models, with any head.
        tokenizer: For texts and padded batches. It is copied: nnsight pads a causal model on the
            left. None gives nnsight's plain wrapper, which takes tensors, one batch per trace.

    Returns:
        `nnsight.TransformersModel`, or `nnsight.NNsight` where there is no tokenizer.

    Raises:
        ValueError: For a tensor-parallel model, whose hook points hold parts.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> lm = al.to_nnsight(model, tokenizer)
        >>> lm._module is model
        True
    """
    anatomy = anatomy_of(model)
    if shards_of(anatomy) is not None:
        raise ModelError(
            "nnsight would see the part of each site that this rank computes. Use al.capture and "
            "al.intervene, which put the parts together."
        )
    options: dict[str, Any] = {"envoys": {HookPoint: PointEnvoy}}
    if anatomy.legend.head != "base":
        options["rename"] = _NAMES
    if tokenizer is None:
        return nnsight.NNsight(anatomy.model, **options)
    if getattr(anatomy.model, "hf_device_map", None) is None:
        # A pipeline moves models to the first GPU that it finds.
        options["device"] = anatomy.model.device
    return nnsight.TransformersModel(
        anatomy.model,
        tokenizer=copy.deepcopy(tokenizer),
        task=_TASKS[anatomy.legend.head],
        **options,
    )
