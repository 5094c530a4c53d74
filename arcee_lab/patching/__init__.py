"""Which activations carry a difference between two runs: patching, and its first-order estimate.

spots        what is patched at once: a site, or one position, head or unit of it
pairs        two aligned batches, and a metric read from their logits
metrics      LogitDifference
sweep        `patch_sweep`: one patch after another, many per forward
attribution  `patch_attribution`: all patches at once, estimated from one gradient
effects      PatchEffects: frame, heat map, and one method against the other
ablation     `ablate_sweep`: one ablation after another
"""

from typing import TYPE_CHECKING

from arcee_lab._lazy import lazy_exports

if TYPE_CHECKING:
    from arcee_lab.patching.ablation import ablate_sweep
    from arcee_lab.patching.attribution import patch_attribution
    from arcee_lab.patching.effects import PatchEffects
    from arcee_lab.patching.metrics import LogitDifference
    from arcee_lab.patching.spots import Spot, Spots
    from arcee_lab.patching.sweep import patch_sweep

__all__ = [
    "LogitDifference",
    "PatchEffects",
    "Spot",
    "Spots",
    "ablate_sweep",
    "patch_attribution",
    "patch_sweep",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "ablation": ("ablate_sweep",),
        "attribution": ("patch_attribution",),
        "effects": ("PatchEffects",),
        "metrics": ("LogitDifference",),
        "spots": (
            "Spot",
            "Spots",
        ),
        "sweep": ("patch_sweep",),
    },
)
