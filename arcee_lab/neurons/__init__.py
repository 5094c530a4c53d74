"""Neurons of the ReLU² MLP: where each one fires, and on what.

_exemplars   the call `exemplars`: one pass over texts for all neurons

reading/     the pass and its result
  result       Exemplars: top, drawn and silent windows of each neuron, rates, histograms
  job          a run in two steps: plan, estimate, run
  runner       the pass: forwards, ranks, resuming
  state        what is kept of a layer, and how it adds up; hashing: what is drawn
  on_cpu       the same sums from the bits of the activations
  negatives    windows in which a neuron never fires
  domains      texts by domain
  values       values per token, computed again
  files        a run on disk; facts: what a run says of itself; checking: what cannot be
"""

from typing import TYPE_CHECKING

from arcee_lab._lazy import lazy_exports

if TYPE_CHECKING:
    from arcee_lab.neurons._exemplars import exemplars
    from arcee_lab.neurons.reading.result import Exemplar, Exemplars
    from arcee_lab.neurons.reading.state import Places

__all__ = [
    "Exemplar",
    "Exemplars",
    "Places",
    "exemplars",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "_exemplars": ("exemplars",),
        "reading.result": ("Exemplar", "Exemplars"),
        "reading.state": ("Places",),
    },
)
