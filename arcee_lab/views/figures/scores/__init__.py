"""Scores of evaluations with their intervals, next to what is the best possible."""
