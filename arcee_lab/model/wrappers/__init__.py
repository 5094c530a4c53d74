"""Internal: the model inside the wrappers of other tools, and the adapters in its layers."""
