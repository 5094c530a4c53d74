"""Internal: two checkpoints with one ancestor, compared neuron by neuron, and transplants.

pair         the two models, and whether their neurons correspond
_diff        `diff`: firing, directions and effects of every neuron in both
differences  NeuronDiff: what `diff` found
_transplant  `transplant`: neurons of one model in the other; `transplant_activations`
ranking      neurons in the order of a number
prompts      prompts of a batch, and a metric at their last token
scores       `transplant_attribution`: what each transplant would do, estimated for all neurons
curve        `transplant_curve`: how much of a change the first k neurons restore
"""
