"""The records that describe a data set's photos, and the reader of caption files in the layout of CUHK-PEDES."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ms_unireid.data.folders import read_entries
from ms_unireid.errors import DataError, escaped, is_unicode, shown

SPLITS = ("train", "val", "test")
_SPLIT_NAMES = {split: split for split in SPLITS} | dict.fromkeys(("valid", "validation"), "val")
_LARGEST_ID = 2**31 - 1  # identities become int32 labels
_FIX = "copy the file again from the data set's download"


@dataclass(frozen=True)
class Annotation:
    """One photo of a person, its pictures in other modalities, and its raw captions.

    Pictures are those drawn from the photo; where they belong to persons, all of the person.
    """

    person_id: int
    photo: Path
    pictures: Mapping[str, tuple[Path, ...]]  # by modality
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """One training sample: a photo, pictures of each of the other modalities to draw one from, and a raw caption.

    What a photo lacks is empty.
    """

    person_id: int
    photo: Path
    pictures: tuple[tuple[Path, ...], ...]
    caption: str


def training_pairs(annotations: Sequence[Annotation], modalities: Sequence[str] = ("sketch",)) -> tuple[Pair, ...]:
    """Return one pair per caption, in the order of the annotations, with pictures of these modalities.

    A photo without a caption makes one pair.
    """
    return tuple(
        Pair(entry.person_id, entry.photo, tuple(entry.pictures.get(name, ()) for name in modalities), caption)
        for entry in annotations
        for caption in entry.captions or ("",)
    )


@dataclass(frozen=True)
class CaptionEntry:
    """One valid entry of a caption file; `photo` is relative to the photo folder, with forward slashes."""

    split: str
    person_id: int
    photo: str
    captions: tuple[str, ...]


def read_captions(file: Path, path_key: str) -> tuple[CaptionEntry, ...]:
    """Read a caption file, a JSON list of objects with the keys split, id, captions and `path_key`, each photo once.

    Anything else, and a path that leaves the photo folder, raises a DataError.
    """
    entries, first = [], {}
    for index, raw in enumerate(read_raw_captions(file)):
        entry = parse_entry(path_key, file, index, raw)
        if (earlier := first.setdefault(entry.photo, index)) != index:
            raise DataError(
                f"{file}, entry {index}: the photo {escaped(entry.photo)} is already in entry {earlier}, expected each "
                "photo once. Fix: put all captions of the photo into one entry."
            )
        entries.append(entry)
    return tuple(entries)


def read_raw_captions(file: Path) -> list[object]:
    """Read the entries of a caption file without checking them."""
    return read_entries(file, list, "a JSON list with one object per photo", f"Fix: {_FIX}.")


def parse_entry(path_key: str, file: Path, index: int, raw: object) -> CaptionEntry:
    """Check one entry of a caption file; a malformed one raises a DataError. See `read_captions`."""
    where = f"{file}, entry {index}"
    fix = f"Fix: correct this entry, or {_FIX}."
    if not isinstance(raw, dict):
        raise DataError(f"{where}: expected an object, found {type(raw).__name__}. {fix}")
    for key in ("split", "id", path_key, "captions"):
        if key not in raw:
            hint = " (a renamed caption_all.json has no split)" if key == "split" else ""
            raise DataError(f"{where}: the key {key!r} is missing{hint}; found {shown(list(raw))}. {fix}")
    try:
        split, person_id = parse_split(raw["split"]), parse_identity(raw["id"])
        return CaptionEntry(split, person_id, parse_path(raw[path_key]), check_captions(raw["captions"]))
    except ValueError as error:
        raise DataError(f"{where}: {error}. {fix}") from error


def parse_split(value: object) -> str:
    """Return a split, one of `SPLITS`, by any of its names; anything else raises a ValueError."""
    split = _SPLIT_NAMES.get(value.strip().casefold()) if isinstance(value, str) else None
    if split is None:
        raise ValueError(f"the split {shown(value)} is not known, expected one of {', '.join(SPLITS)}")
    return split


def parse_identity(value: object) -> int:
    """Return an identity given as an integer or a string of digits; anything else raises a ValueError."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 12:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST_ID:
        raise ValueError(f"'id' must be an integer from 0 to {_LARGEST_ID}, found {shown(value)}")
    return value


def parse_path(value: object, what: str = "photo") -> str:
    """Return a relative path with forward slashes; one that leaves its folder or names no file raises a ValueError."""
    if not isinstance(value, str) or not value.strip(" ./\\") or not is_unicode(value):
        raise ValueError(f"the {what}'s path must be a string that names a file, found {shown(value)}")
    parts = value.strip().replace("\\", "/").split("/")
    if not parts[0] or parts[0][1:2] == ":" or ".." in parts:
        raise ValueError(f"the {what}'s path {shown(value)} leaves the {what} folder, expected a path inside it")
    return "/".join(part for part in parts if part not in ("", "."))  # pathlib would take a second or two


def check_captions(value: object) -> tuple[str, ...]:
    """Return a list of captions, unchanged; an empty list or a blank or damaged caption raises a ValueError."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"'captions' must be a list of at least one caption, found {shown(value)}")
    for caption in value:
        if not isinstance(caption, str) or not caption.strip() or not is_unicode(caption):
            raise ValueError(f"a caption must be Unicode text that is not blank, found {shown(caption)}")
    return tuple(value)
