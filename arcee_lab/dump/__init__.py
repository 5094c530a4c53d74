"""Activation stores: small, exact, quick to ask.

sparse     the nonzeros of a matrix, row by row, and the smallest way to keep them
int8       a byte a value, with a bound on the error
block      what one shard file of a site holds
layouts    from activations to a block, batch by batch
tokens     what is known of each token
manifest   what a store holds, as JSON that is checked
shards     the files
store      `open`: by neuron, by token, as frames
firings    the answers about neurons
stats      the counts of `al.sparsity.measure`
dataset    batches for training
"""

from arcee_lab.dump.store import Store, open

__all__ = ["Store", "open"]
