"""Internal: a dump in progress, from batches to shards."""
