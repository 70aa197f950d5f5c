"""Sketches from photos: remove the background, draw lines, fill whole folders, measure the result."""
