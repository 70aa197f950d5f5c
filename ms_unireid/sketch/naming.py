"""Where a photo's sketches lie: under its relative path, as the parsers expect them.

The sketch of `CUHK01/a.jpg` is `CUHK01/a.png`, and variation 2 of it `variations/2/CUHK01/a.png`: each variation is a
whole folder in the layout of the first. Photos that differ in the ending alone would meet under one name; each of them
keeps its own name, ending included, with a PNG inside, which every reader here takes by its content.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

VARIATIONS = "variations"


def sketch_names(photos: Sequence[str]) -> dict[str, str]:
    """Map each photo's relative path to the relative path of its sketch.

    Args:
        photos: All photos of the folder, with forward slashes.
    """
    stems = Counter(map(_stem, photos))
    return {photo: photo if stems[_stem(photo)] > 1 else f"{_stem(photo)}.png" for photo in photos}


def sketch_path(folder: Path, sketch: str, variation: int = 1) -> Path:
    """Return the file of a sketch.

    Args:
        folder: The sketch folder.
        sketch: Relative path, from `sketch_names`.
        variation: 1 for the plain sketch.
    """
    return folder / sketch if variation == 1 else folder / VARIATIONS / str(variation) / sketch


def find_sketch(folder: Path, photo: str, sketch: str) -> Path | None:
    """Return the sketch of a photo, also one that others drew under the photo's own name; None if there is none."""
    return next((path for path in (folder / sketch, folder / photo) if path.is_file()), None)


def printable(text: str) -> str:
    """Replace what in a file's name is no text, so that it can be written into a file."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _stem(photo: str) -> str:
    return photo.removesuffix(PurePosixPath(photo).suffix)
