"""Neurons: where each one fires, what it does, and which of them carry a concept.

_exemplars  the call `exemplars`: one pass over texts for all neurons
reading     the pass and its result
labels      where labels come from: the demo, character spans, BIO files, patterns, functions
search      `find`: which units carry a label, with its controls
weights     what the weights say: effects on the logits, classes, attribution to neurons
ablation    `ablate`, `ablate_target`: what changes without neurons; an estimate for all at once
"""

from typing import TYPE_CHECKING

from arcee_lab._lazy import lazy_exports

if TYPE_CHECKING:
    from arcee_lab.neurons import labels
    from arcee_lab.neurons._exemplars import exemplars
    from arcee_lab.neurons.ablation._ablate import ablate
    from arcee_lab.neurons.ablation.estimated import ablation_estimate
    from arcee_lab.neurons.ablation.named import Neuron
    from arcee_lab.neurons.ablation.outcome import AblationEstimate, Ablations
    from arcee_lab.neurons.ablation.targeted import TargetAblations, ablate_target
    from arcee_lab.neurons.reading.result import Exemplar, Exemplars
    from arcee_lab.neurons.reading.state import Places
    from arcee_lab.neurons.search._find import find
    from arcee_lab.neurons.search.found import Control, Found, FoundLabel, FoundUnit
    from arcee_lab.neurons.weights._effects import effects
    from arcee_lab.neurons.weights.attribution import attribute_neurons
    from arcee_lab.neurons.weights.direct import LogitAttribution, logit_attribution
    from arcee_lab.neurons.weights.result import Effects

__all__ = [
    "AblationEstimate",
    "Ablations",
    "Control",
    "Effects",
    "Exemplar",
    "Exemplars",
    "Found",
    "FoundLabel",
    "FoundUnit",
    "LogitAttribution",
    "Neuron",
    "Places",
    "TargetAblations",
    "ablate",
    "ablate_target",
    "ablation_estimate",
    "attribute_neurons",
    "effects",
    "exemplars",
    "find",
    "labels",
    "logit_attribution",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "_exemplars": ("exemplars",),
        "ablation._ablate": ("ablate",),
        "ablation.estimated": ("ablation_estimate",),
        "ablation.named": ("Neuron",),
        "ablation.outcome": (
            "AblationEstimate",
            "Ablations",
        ),
        "ablation.targeted": (
            "TargetAblations",
            "ablate_target",
        ),
        "reading.result": (
            "Exemplar",
            "Exemplars",
        ),
        "reading.state": ("Places",),
        "search._find": ("find",),
        "search.found": (
            "Control",
            "Found",
            "FoundLabel",
            "FoundUnit",
        ),
        "weights._effects": ("effects",),
        "weights.attribution": ("attribute_neurons",),
        "weights.direct": (
            "LogitAttribution",
            "logit_attribution",
        ),
        "weights.result": ("Effects",),
    },
    packages=("labels",),
)
