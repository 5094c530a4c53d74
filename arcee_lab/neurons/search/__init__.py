"""Internal: `find`, the search for the units that carry a label, with its controls.

streaming   the activations of texts, one site and batch at a time
levels      scores of all units at a few levels, exactly counted, also for shuffled labels
curves      exact scores of a few units: F1, AUPRC, AUROC, and intervals over documents
shuffling   labels that go with the wrong texts
controls    the untrained copy, and whether it fits
found       the result
"""
