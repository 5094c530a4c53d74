"""Internal: analyses with forward passes of their own, on a sample of the tokens."""
