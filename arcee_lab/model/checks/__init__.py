"""Internal: what is checked before and after weights are loaded: options, config, arithmetic."""
