"""A synthetic Tri data set: made-up people with captions, photos and sketches."""
