"""The hookable Arcee: configuration, backbone, heads, loading."""

from typing import TYPE_CHECKING

from arcee_lab._lazy import lazy_exports

if TYPE_CHECKING:
    from arcee_lab.model.config import ArceeConfig
    from arcee_lab.model.heads import (
        ArceeForQuestionAnswering,
        ArceeForSequenceClassification,
        ArceeForTokenClassification,
    )
    from arcee_lab.model.layers import HookPoint
    from arcee_lab.model.modeling import ArceeForCausalLM, ArceeModel, ArceePreTrainedModel

__all__ = [
    "ArceeConfig",
    "ArceeForCausalLM",
    "ArceeForQuestionAnswering",
    "ArceeForSequenceClassification",
    "ArceeForTokenClassification",
    "ArceeModel",
    "ArceePreTrainedModel",
    "HookPoint",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "config": ("ArceeConfig",),
        "heads": (
            "ArceeForQuestionAnswering",
            "ArceeForSequenceClassification",
            "ArceeForTokenClassification",
        ),
        "layers": ("HookPoint",),
        "modeling": ("ArceeForCausalLM", "ArceeModel", "ArceePreTrainedModel"),
    },
)
