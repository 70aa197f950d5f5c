"""Photos found in an index, and errors of a checkpoint looked at."""
