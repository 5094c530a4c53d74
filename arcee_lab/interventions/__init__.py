"""Change activations: interventions are values, and `intervene` is the block in which they act.

Each value names sites, what becomes of them, and which units, heads and tokens are meant. It can be
printed, compared, hashed and, through `to_json` and `from_json`, kept in a file.
"""

from typing import TYPE_CHECKING

from arcee_lab._lazy import lazy_exports

if TYPE_CHECKING:
    from arcee_lab.interventions.ablate import Ablate, Patch
    from arcee_lab.interventions.arithmetic import Add, Clamp, ProjectOut, Scale
    from arcee_lab.interventions.base import Intervention
    from arcee_lab.interventions.context import Intervening, intervene
    from arcee_lab.interventions.neurons import Cett, Threshold, TopK
    from arcee_lab.interventions.replace import Replace
    from arcee_lab.interventions.serialization import from_json, to_json

__all__ = [
    "Ablate",
    "Add",
    "Cett",
    "Clamp",
    "Intervening",
    "Intervention",
    "Patch",
    "ProjectOut",
    "Replace",
    "Scale",
    "Threshold",
    "TopK",
    "from_json",
    "intervene",
    "to_json",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "ablate": ("Ablate", "Patch"),
        "arithmetic": ("Add", "Clamp", "ProjectOut", "Scale"),
        "base": ("Intervention",),
        "context": ("Intervening", "intervene"),
        "neurons": ("Cett", "Threshold", "TopK"),
        "replace": ("Replace",),
        "serialization": ("from_json", "to_json"),
    },
)
