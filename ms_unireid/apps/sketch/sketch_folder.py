"""A folder of sketches: the names of the files, one PNG for each sketch, and the manifest `sketches.json`.

The sketch of `CUHK01/a.jpg` is `CUHK01/a.png`; variation 2 of it is `variations/2/CUHK01/a.png`. Photos that differ
only in the suffix keep their own names, suffix included; the file is still a PNG.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from ms_unireid.apps.sketch.recipe import Recipe
from ms_unireid.data.folders import read_entries
from ms_unireid.data.pictures import DECODE_ERRORS, opened
from ms_unireid.errors import DataError
from ms_unireid.files import replacing, write_json

MANIFEST = "sketches.json"
_GENERATOR = "ms_unireid.sketch"
_PHOTO, _RECIPE, _NOTE = "photo", "recipe", "note"  # texts inside a PNG


def sketch_names(photos: Sequence[str]) -> dict[str, str]:
    """Map the relative path of each photo to that of its sketch; `photos` are all photos of the folder."""
    stems = Counter(map(_stem, photos))
    return {photo: photo if stems[_stem(photo)] > 1 else f"{_stem(photo)}.png" for photo in photos}


def sketch_path(folder: Path, sketch: str, variation: int = 1) -> Path:
    """Return the file of a sketch, whose relative path is from `sketch_names`."""
    return folder / sketch if variation == 1 else folder / "variations" / str(variation) / sketch


def find_sketch(folder: Path, photo: str, sketch: str) -> Path | None:
    """Return the sketch of a photo, under its own name or the photo's; None if there is none."""
    return next((path for path in (folder / sketch, folder / photo) if path.is_file()), None)


def write_sketch(path: Path, sketch: np.ndarray, photo: str, recipe: str, note: str = "") -> None:
    """Write a sketch, uint8 (H, W), as PNG; the same arguments give the same bytes.

    Args:
        path: File to write; it may have any suffix.
        sketch: uint8 (H, W).
        photo: Relative path of the photo.
        recipe: `Recipe.digest`.
        note: What is unusual about the photo.

    Raises:
        UserError: If it cannot be written.
    """
    texts = PngImagePlugin.PngInfo()
    for key, value in ((_PHOTO, photo), (_RECIPE, recipe), (_NOTE, note)):
        texts.add_itxt(key, _printable(value))
    with replacing(path) as temporary:
        Image.fromarray(sketch).save(temporary, format="PNG", pnginfo=texts, compress_level=6)


def note_of_finished(path: Path, size: tuple[int, int], photo: str, recipe: str) -> str | None:
    """Return the note of an undamaged sketch of this photo by this recipe; None for anything else."""
    try:
        with opened(path) as picture:
            if picture.format != "PNG" or picture.mode != "L" or picture.size != (size[1], size[0]):
                return None
            texts = {key: picture.info.get(key, "") for key in (_PHOTO, _RECIPE, _NOTE)}
            picture.verify()  # compares every checksum in the file
    except DECODE_ERRORS:
        return None
    return texts[_NOTE] if (texts[_PHOTO], texts[_RECIPE]) == (_printable(photo), recipe) else None


def check_folder(output: Path, recipe: Recipe, redo: bool) -> None:
    """Check that sketches of this recipe may be drawn into a folder, which may be absent.

    DataError if the folder holds anything else, or sketches of another recipe and `redo` is not set.
    """
    if not output.exists():
        return
    if not output.is_dir():
        raise DataError(f"{output}: not a folder; choose another --output")
    found = read_manifest(output)
    if found is None:
        if any(not child.name.startswith(".") for child in output.iterdir()):
            raise DataError(
                f"{output}: has files, but no {MANIFEST}, so this tool did not draw them; move them away or choose "
                "another --output"
            )
        return
    changed = _differences(found.get("recipe"), recipe.to_json())
    if changed and not redo:
        raise DataError(
            f"{output / MANIFEST}: drawn with other options ({'; '.join(changed[:4])}); use the "
            "same options, choose another --output, or draw all again with --redo"
        )


def read_manifest(output: Path) -> dict[str, Any] | None:
    """Return the manifest of a sketch folder; None if the folder has none, or not one of this tool."""
    try:
        found = read_entries(output / MANIFEST, dict, "the list of drawn sketches", "")
    except DataError:
        return None
    return found if found.get("generator") == _GENERATOR else None


def write_manifest(
    output: Path, recipe: Recipe, photos: int, complete: bool, notes: Mapping[str, str], failures: Mapping[str, str]
) -> None:
    """Write the manifest. It holds no times, so that a resumed run ends with the same bytes.

    UserError if it cannot be written.
    """
    content = {
        "generator": _GENERATOR,
        "complete": complete,
        "photos": photos,
        "failed": len(failures),
        "recipe": recipe.to_json(),
        "failures": _sorted(failures),
        "notes": _sorted(notes),
    }
    write_json(output / MANIFEST, content)


def _stem(photo: str) -> str:
    return photo.removesuffix(PurePosixPath(photo).suffix)


def _printable(text: str) -> str:
    """Replace bytes of a file name that are not UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _sorted(texts: Mapping[str, str]) -> dict[str, str]:
    return {_printable(name): _printable(text) for name, text in sorted(texts.items())}


def _differences(old: Any, new: dict[str, Any]) -> list[str]:
    """List what differs between two recipes; more variations than before are allowed."""
    old = _flat(old if isinstance(old, dict) else {})
    new = _flat(new)
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key) and key != "variations"]
    if isinstance(old.get("variations"), int) and old["variations"] > new["variations"]:
        changed.append("variations")
    return [f"{key} was {old.get(key)!r}, now {new.get(key)!r}" for key in changed]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value})
    return flat
