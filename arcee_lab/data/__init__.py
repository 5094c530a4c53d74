"""Texts: read from files and data sets, then cut into windows of tokens."""
