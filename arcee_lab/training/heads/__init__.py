"""Trains a classification head for any data set, and fits linear probes of every layer.

recipe     `HeadRecipe`: the settings of a training run
labelled   `read_labelled`: texts with labels from files, the Hub, a task or the demo's world
tasks      the field's data sets, read as `arcee-lab eval` reads them
encoding   token ids of the texts, with a label at each position where the head reads
fitting    `train_head`: transformers' Trainer around a new head
resuming   the saved state of such a run
trained    `TrainedHead`: the model, its scores on held-out texts, its losses
probing    `probe_layers`: linear probes of labelled texts, `al.directions`' at every layer
"""

from typing import TYPE_CHECKING

from arcee_lab._lazy import lazy_exports

if TYPE_CHECKING:
    from arcee_lab.training.heads.fitting import train_head
    from arcee_lab.training.heads.labelled import LabelledTexts, read_labelled
    from arcee_lab.training.heads.probing import probe_layers
    from arcee_lab.training.heads.recipe import HeadRecipe
    from arcee_lab.training.heads.trained import TrainedHead

__all__ = [
    "HeadRecipe",
    "LabelledTexts",
    "TrainedHead",
    "probe_layers",
    "read_labelled",
    "train_head",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "fitting": ("train_head",),
        "labelled": ("LabelledTexts", "read_labelled"),
        "probing": ("probe_layers",),
        "recipe": ("HeadRecipe",),
        "trained": ("TrainedHead",),
    },
)
