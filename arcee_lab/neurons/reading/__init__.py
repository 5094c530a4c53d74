"""Internal: the pass that reads a text once and keeps, of every neuron, where it fires.

result      Exemplars: top, drawn and silent windows of each neuron, rates, histograms
job         a run in two steps: plan, estimate, run
runner      the pass: forwards, ranks, resuming
state       what is kept of a layer, and how it adds up; hashing: what is drawn
on_cpu      the same sums from the bits of the activations
negatives   windows in which a neuron never fires
domains     texts by domain
values      values per token, computed again
files       a run on disk; facts: what a run says of itself; checking: what cannot be
"""
