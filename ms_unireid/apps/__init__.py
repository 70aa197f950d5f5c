"""Products made of the library: what a user starts."""
