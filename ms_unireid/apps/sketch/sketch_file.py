"""Sketch files: where a photo's sketches lie, and how one is written.

The sketch of `CUHK01/a.jpg` is `CUHK01/a.png`, and variation 2 of it `variations/2/CUHK01/a.png`: each variation is a
folder in the layout of the first. Photos that differ in the suffix alone would share one name; each of them keeps its
own name, suffix included, with a PNG inside.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, PngImagePlugin

from ms_unireid.data.pictures import DECODE_ERRORS, opened
from ms_unireid.files import replacing

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


_PHOTO, _RECIPE, _NOTE = "photo", "recipe", "note"


def write_sketch(path: Path, sketch: np.ndarray, photo: str, recipe: str, note: str = "") -> None:
    """Write a sketch whole or not at all; the same arguments give the same bytes.

    Args:
        path: PNG to write, whatever its ending.
        sketch: uint8 (H, W).
        photo: Relative path of the photo.
        recipe: `Recipe.digest`.
        note: What went otherwise than usual.

    Raises:
        UserError: If it cannot be written.
    """
    texts = PngImagePlugin.PngInfo()
    for key, value in ((_PHOTO, photo), (_RECIPE, recipe), (_NOTE, note)):
        texts.add_itxt(key, printable(value))
    with replacing(path) as temporary:
        Image.fromarray(sketch).save(temporary, format="PNG", pnginfo=texts, compress_level=6)


def finished(path: Path, size: tuple[int, int], photo: str, recipe: str) -> Mapping[str, str] | None:
    """Return the texts of a whole sketch of this photo by this recipe, or None for anything else.

    Every checksum in the file is compared, so that a torn file is told from a whole one.
    """
    try:
        with opened(path) as picture:
            if picture.format != "PNG" or picture.mode != "L" or picture.size != (size[1], size[0]):
                return None
            texts = {key: picture.info.get(key, "") for key in (_PHOTO, _RECIPE, _NOTE)}
            picture.verify()
    except DECODE_ERRORS:
        return None
    return texts if (texts[_PHOTO], texts[_RECIPE]) == (printable(photo), recipe) else None


def note_of(texts: Mapping[str, str]) -> str:
    """Return the note among the texts of a sketch."""
    return texts[_NOTE]
