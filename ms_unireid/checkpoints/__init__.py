"""Checkpoint files of every origin: reading, recognition, conversion and writing, without PyTorch."""
