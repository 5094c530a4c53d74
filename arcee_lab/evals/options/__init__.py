"""Internal: how documents are asked; what lm-eval's flags of the same names do."""
