"""Encoding of a split, evaluation protocols and metrics."""
