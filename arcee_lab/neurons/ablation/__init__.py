"""Internal: what happens without a neuron, and an estimate of it for all neurons at once.

named       neurons and sets of neurons, as callers write them
replaced    what is put in their place: zeros, means, other tokens' values
scored      NLL and KL of rows, a few logits at a time
estimated   `ablation_estimate`: the change of the NLL to first order
targeted    `ablate_target`: the change of one logit of any head
outcome     the result
"""
