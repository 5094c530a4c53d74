"""Internal: what the weights say about neurons."""
