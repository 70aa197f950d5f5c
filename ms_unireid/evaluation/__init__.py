"""Features, protocols and metrics."""
