"""arcee_lab: read, measure, change and evaluate Arcee models.

Example:
    >>> import arcee_lab as al
    >>> model, tokenizer = al.load("demo")  # or a folder, or a Hub id
    >>> batch = tokenizer("The dogs near the barn sleep .", return_tensors="pt")
    >>> with al.capture(model, "layers.*.mlp.hook_post") as acts:
    ...     output = model(**batch)
    >>> zeros = (acts["layers.1.mlp.hook_post"] == 0).float().mean()  # exact zeros of relu(u)²
"""

from typing import TYPE_CHECKING

from arcee_lab._lazy import lazy_exports

__version__ = "0.2.0"
if TYPE_CHECKING:
    from arcee_lab import (
        attention,
        data,
        demo,
        directions,
        dump,
        errors,
        evals,
        interventions,
        lens,
        lesson,
        model,
        neurons,
        patching,
        reducers,
        sparsity,
        trace,
        training,
    )
    from arcee_lab.explorer._explore import explore
    from arcee_lab.heads.answers import answer
    from arcee_lab.interventions import (
        Ablate,
        Add,
        Cett,
        Clamp,
        Patch,
        ProjectOut,
        Replace,
        Scale,
        Threshold,
        TopK,
        intervene,
    )
    from arcee_lab.model import (
        ArceeConfig,
        ArceeForCausalLM,
        ArceeForQuestionAnswering,
        ArceeForSequenceClassification,
        ArceeForTokenClassification,
        ArceeModel,
    )
    from arcee_lab.model.auto_classes import register
    from arcee_lab.model.loading import load
    from arcee_lab.patching import patch_attribution, patch_sweep
    from arcee_lab.recording.capturing import capture
    from arcee_lab.recording.compiled_capture import capture_compiled
    from arcee_lab.recording.memory import plan
    from arcee_lab.sparsity.decoding import sparse_decode
    from arcee_lab.trace import to_nnsight

__all__ = [
    "Ablate",
    "Add",
    "ArceeConfig",
    "ArceeForCausalLM",
    "ArceeForQuestionAnswering",
    "ArceeForSequenceClassification",
    "ArceeForTokenClassification",
    "ArceeModel",
    "Cett",
    "Clamp",
    "Patch",
    "ProjectOut",
    "Replace",
    "Scale",
    "Threshold",
    "TopK",
    "answer",
    "attention",
    "capture",
    "capture_compiled",
    "data",
    "demo",
    "directions",
    "dump",
    "errors",
    "evals",
    "explore",
    "intervene",
    "interventions",
    "lens",
    "lesson",
    "load",
    "model",
    "neurons",
    "patch_attribution",
    "patch_sweep",
    "patching",
    "plan",
    "reducers",
    "register",
    "sparse_decode",
    "sparsity",
    "to_nnsight",
    "trace",
    "training",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "explorer._explore": ("explore",),
        "heads.answers": ("answer",),
        "interventions": (
            "Ablate",
            "Add",
            "Cett",
            "Clamp",
            "Patch",
            "ProjectOut",
            "Replace",
            "Scale",
            "Threshold",
            "TopK",
            "intervene",
        ),
        "model": (
            "ArceeConfig",
            "ArceeForCausalLM",
            "ArceeForQuestionAnswering",
            "ArceeForSequenceClassification",
            "ArceeForTokenClassification",
            "ArceeModel",
        ),
        "model.auto_classes": ("register",),
        "model.loading": ("load",),
        "patching": ("patch_attribution", "patch_sweep"),
        "recording.capturing": ("capture",),
        "recording.compiled_capture": ("capture_compiled",),
        "recording.memory": ("plan",),
        "sparsity.decoding": ("sparse_decode",),
        "trace": ("to_nnsight",),
    },
    packages=(
        "attention",
        "data",
        "demo",
        "directions",
        "dump",
        "errors",
        "evals",
        "interventions",
        "lens",
        "lesson",
        "model",
        "neurons",
        "patching",
        "reducers",
        "sparsity",
        "trace",
        "training",
    ),
)
