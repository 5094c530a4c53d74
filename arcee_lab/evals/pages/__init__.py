"""Internal: pages of evaluations."""
