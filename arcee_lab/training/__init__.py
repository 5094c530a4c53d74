"""Train the demo, and heads for any data set.

recipe, batches, joint, loop    the demo: four losses over packed documents, exactly resumed
skills, scores, card            what the demo can do
heads/                          a head for any classification data set, probes of every layer
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

# Loaded at first use: the command line reads `heads.recipe` and must not wait for torch.
_HOMES = {
    "KindLoss": "scores",
    "LayerZeros": "scores",
    "Recipe": "recipe",
    "Score": "scores",
    "Scorecard": "scores",
    "Stage": "recipe",
    "Trained": "loop",
    "quick": "recipe",
    "train": "loop",
    "untrained": "start",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"arcee_lab.training.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'arcee_lab.training' has no attribute {name!r}")
