"""Internal: the files of a store, as docs/reference/formats.md describes them.

manifest     what a store holds, from which model, in which files
stored_site  what it holds of one hook point
stored_file  the record of one file, or of all files at once
shard_files  one safetensors file per shard and site: written atomically, checked when opened
layouts      from activations to a shard's tensors, batch by batch
block        the tensors of one shard, read by unit or by token
sparse       the nonzeros of a matrix in the smallest of three encodings
int8         one byte per value and one scale per token
token_table  the columns that describe the tokens
"""
