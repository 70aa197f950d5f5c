"""Optimizer, training step, checkpoints and the trainer."""
