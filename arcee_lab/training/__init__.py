"""Train the demo, and heads for any data set.

recipe, batches, joint, loop    the demo: four losses over packed documents, exactly resumed
skills, scores, card            what the demo can do
heads/                          a head for any classification data set, probes of every layer
"""

from typing import TYPE_CHECKING

from arcee_lab._lazy import lazy_exports

if TYPE_CHECKING:
    from arcee_lab.training.loop import Trained, train
    from arcee_lab.training.recipe import Recipe, Stage, quick
    from arcee_lab.training.scores import KindLoss, LayerZeros, Score, Scorecard
    from arcee_lab.training.start import untrained

__all__ = [
    "KindLoss",
    "LayerZeros",
    "Recipe",
    "Score",
    "Scorecard",
    "Stage",
    "Trained",
    "quick",
    "train",
    "untrained",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "loop": ("Trained", "train"),
        "recipe": ("Recipe", "Stage", "quick"),
        "scores": ("KindLoss", "LayerZeros", "Score", "Scorecard"),
        "start": ("untrained",),
    },
)
