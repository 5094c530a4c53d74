"""Neurons: where each one fires, what it does, and which of them carry a concept.

_exemplars    the call `exemplars`: one pass over texts for all neurons
reading       the pass and its result
labels        where labels come from: the demo, character spans, BIO files, patterns, functions
search        `find`: which units carry a label, with its controls
weights       what the weights say: effects on the logits, classes, attribution to neurons
ablation      `ablate`: what changes without neurons; `ablation_estimate` for all of them at once
pages         all that is known of a neuron, as a result and as pages that open offline
descriptions  descriptions by a language model, and what they predict
exports       neurons for Neuronpedia, SAEDashboard, neuron-explainer and delphi
compared    `diff` and `transplant`: two checkpoints with one ancestor, neuron by neuron
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
    from arcee_lab.neurons.compared._diff import diff
    from arcee_lab.neurons.compared._transplant import transplant, transplant_activations
    from arcee_lab.neurons.compared.curve import TransplantCurve, transplant_curve
    from arcee_lab.neurons.compared.differences import NeuronDiff
    from arcee_lab.neurons.compared.scores import TransplantAttribution, transplant_attribution
    from arcee_lab.neurons.descriptions._explain import explain
    from arcee_lab.neurons.descriptions.description import Description, JudgeScore
    from arcee_lab.neurons.exports._export import export
    from arcee_lab.neurons.pages._page import page
    from arcee_lab.neurons.pages.index import write_index
    from arcee_lab.neurons.pages.neuron_page import NeuronPage
    from arcee_lab.neurons.pages.static import write_pages
    from arcee_lab.neurons.pages.stored import StoredValues, values_bytes, write_values
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
    "Description",
    "Effects",
    "Exemplar",
    "Exemplars",
    "Found",
    "FoundLabel",
    "FoundUnit",
    "JudgeScore",
    "LogitAttribution",
    "Neuron",
    "NeuronDiff",
    "NeuronPage",
    "Places",
    "StoredValues",
    "TargetAblations",
    "TransplantAttribution",
    "TransplantCurve",
    "ablate",
    "ablate_target",
    "ablation_estimate",
    "attribute_neurons",
    "diff",
    "effects",
    "exemplars",
    "explain",
    "export",
    "find",
    "labels",
    "logit_attribution",
    "page",
    "transplant",
    "transplant_activations",
    "transplant_attribution",
    "transplant_curve",
    "values_bytes",
    "write_index",
    "write_pages",
    "write_values",
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
        "compared._diff": ("diff",),
        "compared._transplant": (
            "transplant",
            "transplant_activations",
        ),
        "compared.curve": (
            "TransplantCurve",
            "transplant_curve",
        ),
        "compared.differences": ("NeuronDiff",),
        "compared.scores": (
            "TransplantAttribution",
            "transplant_attribution",
        ),
        "descriptions._explain": ("explain",),
        "descriptions.description": (
            "Description",
            "JudgeScore",
        ),
        "exports._export": ("export",),
        "pages._page": ("page",),
        "pages.index": ("write_index",),
        "pages.neuron_page": ("NeuronPage",),
        "pages.static": ("write_pages",),
        "pages.stored": (
            "StoredValues",
            "values_bytes",
            "write_values",
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
