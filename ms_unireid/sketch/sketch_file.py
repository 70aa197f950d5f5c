"""One sketch on disk: a grey PNG that says what it was drawn from and how, so that a resumed run can trust it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from ms_unireid.files import replacing
from ms_unireid.picture_files import DECODE_ERRORS, opened
from ms_unireid.sketch.naming import printable

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
