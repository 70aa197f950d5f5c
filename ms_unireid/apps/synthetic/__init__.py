"""The synthetic Tri data set: persons, captions, photos and sketches, drawn."""
