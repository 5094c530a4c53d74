"""Internal: the pass that reads a text once and keeps, of every neuron, where it fires."""
