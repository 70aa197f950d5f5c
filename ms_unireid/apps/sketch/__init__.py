"""Sketches from photos: background removal, line drawing, whole folders of it, and measures of the result."""
