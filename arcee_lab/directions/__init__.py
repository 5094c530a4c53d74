"""Directions of activations: found, tried on other documents, added, taken out, saved.

direction     `Direction`: a value that becomes interventions; `Check`: a measured number
files         `load`: directions from safetensors files, checked
reading       which labelled tokens are fitted and confirmed on, and their activations
methods       difference of means, logistic and ridge probes, on plain arrays
finding/      `mean_difference`, `logistic`, `ridge`, `contrast_pca`, `neuron`,
              `distributed_alignment`: the ways to find one
detection     `detect`: a direction at every layer, next to its controls
detected      `Detection`: what it found
auroc         the AUROC and its resampling by documents
steering      `steer`: success and cost over strength
prompts       prompts with answers, and the sources that are put in their place
questions     questions with two answers in their context, for question-answering heads
layer_probes  probes of any number of labels at every layer, for heads
predictions   `whole_texts`, `predicted_labels`: labels of texts, and what a head predicts
"""

from typing import TYPE_CHECKING

from arcee_lab._lazy import lazy_exports

if TYPE_CHECKING:
    from arcee_lab.directions.detected import Detection
    from arcee_lab.directions.detection import detect
    from arcee_lab.directions.direction import Check, Direction
    from arcee_lab.directions.files import load
    from arcee_lab.directions.finding.alignment import distributed_alignment
    from arcee_lab.directions.finding.contrast import contrast_pca
    from arcee_lab.directions.finding.fitted import logistic, mean_difference, ridge
    from arcee_lab.directions.finding.single_neurons import neuron
    from arcee_lab.directions.layer_probes import Probes
    from arcee_lab.directions.predictions import predicted_labels, whole_texts
    from arcee_lab.directions.steering import Steering, steer

__all__ = [
    "Check",
    "Detection",
    "Direction",
    "Probes",
    "Steering",
    "contrast_pca",
    "detect",
    "distributed_alignment",
    "load",
    "logistic",
    "mean_difference",
    "neuron",
    "predicted_labels",
    "ridge",
    "steer",
    "whole_texts",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "finding.alignment": ("distributed_alignment",),
        "finding.contrast": ("contrast_pca",),
        "detected": ("Detection",),
        "detection": ("detect",),
        "direction": ("Check", "Direction"),
        "files": ("load",),
        "finding.fitted": ("logistic", "mean_difference", "ridge"),
        "layer_probes": ("Probes",),
        "predictions": ("predicted_labels", "whole_texts"),
        "finding.single_neurons": ("neuron",),
        "steering": ("Steering", "steer"),
    },
)
