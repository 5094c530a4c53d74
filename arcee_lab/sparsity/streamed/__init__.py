"""Internal: the analyses that share one pass over the texts, and the runner of that pass.

runner         `Pass`: forwards, states, saving and resuming
schedule       which windows go into which forward, and which of them are sampled
resume_files   the saved state of a pass, checked before it is used
analysis       the interface of an analysis: a state per batch, summed, and a result
unions, overlap, spikes, concentration, loss, predictors, across_layers, blocks
               one analysis each, named in `arcee_lab.sparsity.registry`
"""
