"""Internal: the ways to find a direction, one file per way."""
