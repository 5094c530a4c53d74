"""Internal: reports compared with each other."""
