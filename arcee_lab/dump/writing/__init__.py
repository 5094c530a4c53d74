"""Internal: a dump in progress, from texts to finished shards.

job             `write` and `plan`; DumpJob runs a dump
batching        which windows go into which batch and shard: a pure function
estimate        bytes, seconds and memory of a dump before it starts
recorder        passes on the activations of a forward as they appear
writer_threads  threads that convert and write during the next forwards, with bounded memory
shard_writer    one shard while it is written
resume          which shards of an interrupted dump are complete, and who writes the others
provenance      what the manifest says of model, tokenizer, data and code
tags            further numbers per token
"""
