"""Internal: how a running model is observed, and how everything is put back.

watch            the block in which hook points are observed
call             the tokens of one call: mask, cache, positions
request          what a block was asked for, resolved
selection        cuts: positions, heads, units
graph            hooks inside a compiled graph
tensor_parallel  activations of a model that is split over ranks
threads          which thread's forwards a block observes
restore          state that is put back when a block ends
"""
