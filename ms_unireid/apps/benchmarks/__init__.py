"""What `tools/benchmark.py` measures, one module for a sub-command."""
