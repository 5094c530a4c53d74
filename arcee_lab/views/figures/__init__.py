"""Matplotlib figures, one file per kind of picture; each is a pure function of arrays."""
