"""Internal: what the weights say: effects on the logits, classes, attribution to neurons."""
