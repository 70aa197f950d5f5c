"""Checkpoint files of every origin: read without PyTorch, renamed, resized, written back."""
