"""Internal: where a store lives: local or remote, with one writer at a time."""
