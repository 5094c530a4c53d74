"""Trains and judges a head for any data set, and fits linear probes of every layer.

recipe       `HeadRecipe`: the settings of a training run
labelled     `read_labelled`: texts with labels from files, the Hub, a task or the demo's world
questions    `LabelledQuestions`: questions, contexts and answers, from SQuAD's files or rows
tasks        the field's data sets, read as `arcee-lab eval` reads them
encoding     token ids of the texts, with a label at each position where the head reads
spans        questions as windows of token ids, with the answer's tokens and their loss
fitting      `train_head`: transformers' Trainer around a new head
resuming     the saved state of such a run
held_out     held-out texts: a part of the training texts, early stopping
calibration  `Calibration`: a temperature fitted on held-out texts
span_calibration  probabilities of tokens and of answers, for the calibration of QA heads
judging      `evaluate_head`: scores of a head on labelled texts or questions
trained      `TrainedHead`: the model, its scores on held-out texts, its losses
probing      `probe_layers`: linear probes of labelled texts, `al.directions`' at every layer
"""

from typing import TYPE_CHECKING

from arcee_lab._lazy import lazy_exports

if TYPE_CHECKING:
    from arcee_lab.training.heads.calibration import Calibration
    from arcee_lab.training.heads.fitting import train_head
    from arcee_lab.training.heads.judging import evaluate_head
    from arcee_lab.training.heads.labelled import LabelledTexts, read_labelled
    from arcee_lab.training.heads.probing import probe_layers
    from arcee_lab.training.heads.questions import LabelledQuestions
    from arcee_lab.training.heads.recipe import HeadRecipe
    from arcee_lab.training.heads.trained import TrainedHead

__all__ = [
    "Calibration",
    "HeadRecipe",
    "LabelledQuestions",
    "LabelledTexts",
    "TrainedHead",
    "evaluate_head",
    "probe_layers",
    "read_labelled",
    "train_head",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "calibration": ("Calibration",),
        "fitting": ("train_head",),
        "judging": ("evaluate_head",),
        "labelled": ("LabelledTexts", "read_labelled"),
        "probing": ("probe_layers",),
        "questions": ("LabelledQuestions",),
        "recipe": ("HeadRecipe",),
        "trained": ("TrainedHead",),
    },
)
