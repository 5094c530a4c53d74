"""Neurons: what they do, and which of them carry a concept.

labels    where labels come from: the demo, character spans, BIO files, patterns, functions
weights   what the weights say: effects on the logits, attribution to neurons
"""

from typing import TYPE_CHECKING

from arcee_lab._lazy import lazy_exports

if TYPE_CHECKING:
    from arcee_lab.neurons import labels
    from arcee_lab.neurons.weights.attribution import attribute_neurons

__all__ = ["attribute_neurons", "labels"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {"weights.attribution": ("attribute_neurons",)},
    packages=("labels",),
)
