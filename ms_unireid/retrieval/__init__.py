"""Ranked lists for people to look at."""
