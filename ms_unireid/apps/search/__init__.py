"""Search: an index of photos, and the photos that match a description, a sketch, both, or another photo."""
