"""Benchmarks of speed and memory: one module per sub-command of `tools/benchmark.py`."""
