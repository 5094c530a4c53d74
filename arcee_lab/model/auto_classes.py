"""Make transformers' Auto classes and pipelines build our classes."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from arcee_lab.model.config import ArceeConfig
from arcee_lab.model.heads import (
    ArceeForQuestionAnswering,
    ArceeForSequenceClassification,
    ArceeForTokenClassification,
)
from arcee_lab.model.modeling import ArceeForCausalLM, ArceeModel


def register() -> None:
    """Registers the hookable classes for `model_type` "arcee", for this process.

    Afterwards `AutoModelFor*.from_pretrained` and `pipeline("text-generation" | \
"text-classification" | "token-classification", ...)` build arcee_lab's classes, and `al.capture`
    reads them. Calling it twice is harmless.

    Example:
        >>> import arcee_lab as al
        >>> from transformers import AutoModelForCausalLM
        >>> from arcee_lab.model.loading import DEMO
        >>> al.register()
        >>> type(AutoModelForCausalLM.from_pretrained(DEMO)).__module__
        'arcee_lab.model.modeling'
    """
    AutoConfig.register("arcee", ArceeConfig, exist_ok=True)
    for auto, cls in (
        (AutoModel, ArceeModel),
        (AutoModelForCausalLM, ArceeForCausalLM),
        (AutoModelForSequenceClassification, ArceeForSequenceClassification),
        (AutoModelForTokenClassification, ArceeForTokenClassification),
        (AutoModelForQuestionAnswering, ArceeForQuestionAnswering),
    ):
        auto.register(ArceeConfig, cls, exist_ok=True)
