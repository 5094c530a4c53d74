"""Trains the demo model, and classification heads for any data set.

recipe            the settings of a run of the demo: shape, stages, seed
initial_weights   the untrained demo, also the control of every claim
batches           documents packed into rows, with the targets of every head
joint_loss        four losses from one forward of the backbone, and the demo's heads
loop              `train`: the training loop, resumed bit for bit
state             reads the saved state of a run
held_out          losses and zeros on held-out documents during training
skills            share of correct answers per skill, loss per kind of document
baselines         simple readers to compare the heads with
scores            `Scorecard`: all scores of a demo
score_demo        measures a scorecard
card, export      the model card and the checkpoint folder
heads/            a head for any classification data set, probes of every layer
"""

from typing import TYPE_CHECKING

from arcee_lab._lazy import lazy_exports

if TYPE_CHECKING:
    from arcee_lab.training import heads
    from arcee_lab.training.initial_weights import untrained
    from arcee_lab.training.loop import Trained, train
    from arcee_lab.training.recipe import Recipe, Stage, quick
    from arcee_lab.training.scores import KindLoss, LayerZeros, Scorecard, SkillScore

__all__ = [
    "KindLoss",
    "LayerZeros",
    "Recipe",
    "Scorecard",
    "SkillScore",
    "Stage",
    "Trained",
    "heads",
    "quick",
    "train",
    "untrained",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "loop": ("Trained", "train"),
        "recipe": ("Recipe", "Stage", "quick"),
        "scores": ("KindLoss", "LayerZeros", "Scorecard", "SkillScore"),
        "initial_weights": ("untrained",),
    },
    packages=("heads",),
)
