"""Internal: queries of a store, and exports to other formats."""
