"""Internal: how requests become rows of tokens and rows become scores."""
