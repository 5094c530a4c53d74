"""Internal: queries of a store and exports to other formats.

store    `open` and Store: by neuron, by token, as frames
reader   the parts of a store by site, shard and token, for all other modules
firings  results of queries by neuron
stats    counts as `al.sparsity.measure` gives them
dataset  batches for training
exports  parquet, coo, delphi, saelens
"""
