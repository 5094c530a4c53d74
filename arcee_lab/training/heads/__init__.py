"""A classification head for any data set, and probes that ask every layer the same.

recipe     how a head is fitted, the same for Python and the command line
labelled   texts with labels: files, a Hub data set, a task's, or the demo's world
tasks      the field's data sets, read as `arcee-lab eval` reads them
encoding   their token ids, with a label where the head is asked
fitting    `train_head`: transformers' Trainer around a new head
trained    what comes out: the model, its scores on held-out texts, its losses
probing    `probe_layers`: a linear reader of the residual stream behind each layer
"""

from typing import TYPE_CHECKING

from arcee_lab._lazy import lazy_exports

if TYPE_CHECKING:
    from arcee_lab.training.heads.fitting import train_head
    from arcee_lab.training.heads.labelled import Labelled, read_labelled
    from arcee_lab.training.heads.probing import Probes, probe_layers
    from arcee_lab.training.heads.recipe import HeadRecipe
    from arcee_lab.training.heads.trained import TrainedHead

__all__ = [
    "HeadRecipe",
    "Labelled",
    "Probes",
    "TrainedHead",
    "probe_layers",
    "read_labelled",
    "train_head",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "fitting": ("train_head",),
        "labelled": ("Labelled", "read_labelled"),
        "probing": ("Probes", "probe_layers"),
        "recipe": ("HeadRecipe",),
        "trained": ("TrainedHead",),
    },
)
