"""Data sets, pictures and captions: from annotation files to what a training step takes."""
