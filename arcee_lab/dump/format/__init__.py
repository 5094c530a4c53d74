"""Internal: the files of a store: how activations, tokens and the manifest are encoded."""
