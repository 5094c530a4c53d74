"""Internal: what is counted at every token, and the tables that follow from it."""
