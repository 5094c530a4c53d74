"""arcee_lab: look into Arcee models, measure them, change them, judge them.

import arcee_lab as al

model, tokenizer = al.load("demo")  # or a folder, or a Hub id
batch = tokenizer("The dogs near the barn sleep .", return_tensors="pt")
with al.capture(model, "layers.*.mlp.hook_post") as acts:
    model(**batch)
print((acts["layers.1.mlp.hook_post"] == 0).float().mean())  # exact zeros of relu(u)²
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arcee_lab import attention, dump, evals, interventions, patching, reducers, sparsity, trace
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
    "dump",
    "evals",
    "intervene",
    "interventions",
    "load",
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
]

# Public name -> module it lives in; torch and transformers load at the first use of one of them,
# so that `arcee-lab --help` answers at once.
_HOMES = {
    "answer": "arcee_lab.heads.answers",
    "capture": "arcee_lab.recording.capturing",
    "capture_compiled": "arcee_lab.recording.compiled_capture",
    "load": "arcee_lab.model.loading",
    "patch_attribution": "arcee_lab.patching",
    "patch_sweep": "arcee_lab.patching",
    "plan": "arcee_lab.recording.memory",
    "register": "arcee_lab.model.auto_classes",
    "sparse_decode": "arcee_lab.sparsity.decoding",
    "to_nnsight": "arcee_lab.trace",
}
_HOMES |= dict.fromkeys(
    (
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
    "arcee_lab.interventions",
)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in __all__:
        return import_module(f"arcee_lab.{name}")
    raise AttributeError(f"module 'arcee_lab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
