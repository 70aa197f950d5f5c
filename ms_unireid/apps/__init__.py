"""Products built on the library: what a user starts."""
