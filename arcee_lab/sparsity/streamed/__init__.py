"""Internal: analyses of one pass over the text, and the pass itself."""
