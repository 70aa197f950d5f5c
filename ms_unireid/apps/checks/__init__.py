"""Checks of a machine and of a data set."""
