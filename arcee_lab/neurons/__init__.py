"""Neurons: what they do, and which of them carry a concept.

labels    where labels come from: the demo, character spans, BIO files, patterns, functions
weights   what the weights say: effects on the logits, classes, attribution to neurons
"""

from typing import TYPE_CHECKING

from arcee_lab._lazy import lazy_exports

if TYPE_CHECKING:
    from arcee_lab.neurons import labels
    from arcee_lab.neurons.weights._effects import effects
    from arcee_lab.neurons.weights.attribution import attribute_neurons
    from arcee_lab.neurons.weights.direct import LogitAttribution, logit_attribution
    from arcee_lab.neurons.weights.result import Effects

__all__ = [
    "Effects",
    "LogitAttribution",
    "attribute_neurons",
    "effects",
    "labels",
    "logit_attribution",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "weights._effects": ("effects",),
        "weights.attribution": ("attribute_neurons",),
        "weights.direct": ("LogitAttribution", "logit_attribution"),
        "weights.result": ("Effects",),
    },
    packages=("labels",),
)
