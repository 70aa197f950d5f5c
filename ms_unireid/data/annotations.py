"""What a data set says about its photos: the records every other module takes, and the caption file behind them.

The parser ``tri_pedes`` makes the records; samplers, pipeline and evaluation take them. Where a data set keeps its
files is the parser's business: nothing here looks at a folder. Sets whose sketches belong to persons are in
``sketch_sets``.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ms_unireid.data.folders import read_entries
from ms_unireid.errors import DataError

SPLITS = ("train", "val", "test")
_LARGEST_ID = 2**31 - 1  # identities become int32 labels


@dataclass(frozen=True)
class Annotation:
    """One photo with its sketch and its captions.

    Attributes:
        person_id: Identity, as in the annotation file.
        photo: Path of the photo.
        sketch: Path of the sketch drawn from that photo.
        captions: One or more captions, raw: the tokenizer cleans them.
    """

    person_id: int
    photo: Path
    sketch: Path
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """One training sample: a photo, its own sketch and one of its captions.

    Attributes:
        person_id: Identity, as in the annotation file.
        photo: Path of the photo.
        sketch: Path of the sketch drawn from that photo.
        caption: One raw caption of the photo.
    """

    person_id: int
    photo: Path
    sketch: Path
    caption: str


def training_pairs(annotations: Sequence[Annotation]) -> tuple[Pair, ...]:
    """Return one training sample per caption.

    Args:
        annotations: Annotations of one split.

    Returns:
        The pairs in the order of the annotations, and of the captions within each.
    """
    return tuple(
        Pair(entry.person_id, entry.photo, entry.sketch, caption) for entry in annotations for caption in entry.captions
    )


@dataclass(frozen=True)
class CaptionEntry:
    """One entry of a caption file, checked.

    Attributes:
        index: Position in the file.
        split: train, val or test.
        person_id: Identity, as in the file.
        photo: Path of the photo below the photo folder, with forward slashes.
        captions: One or more captions, raw.
    """

    index: int
    split: str
    person_id: int
    photo: str
    captions: tuple[str, ...]


def read_captions(file: Path, path_key: str) -> list[CaptionEntry]:
    """Read and check a caption file in the layout of CUHK-PEDES.

    Args:
        file: A JSON list of objects with the keys split, id, captions and ``path_key``; other keys are ignored. Any
            split but train and test counts as val, as the authors do; an id may be a string of digits.
        path_key: Key of the photo's path.

    Returns:
        The entries in file order.

    Raises:
        DataError: If the file is unreadable, an entry is malformed, a photo comes twice, or a path leads out of the
            photo folder.
    """
    entries = [parse_entry(path_key, file, index, entry) for index, entry in enumerate(read_raw_captions(file))]
    _check_photo_names(file, entries)
    return entries


def read_raw_captions(file: Path) -> list[object]:
    """Read the entries of a caption file, unchecked.

    Raises:
        DataError: See `read_entries`.
    """
    fix = "Fix: copy the file again from the data set's download."
    return read_entries(file, list, "a JSON list with one object per photo", fix)


def parse_entry(path_key: str, file: Path, index: int, raw: object) -> CaptionEntry:
    """Check one entry of a caption file; see `read_captions`.

    Raises:
        DataError: If it is malformed; the message names the file, the entry's index, what was expected and the fix.
    """
    where = f"{file}, entry {index}"
    fix = "Fix: correct this entry, or copy the file again from the data set's download."
    if not isinstance(raw, dict):
        raise DataError(f"{where}: expected an object, found {type(raw).__name__}. {fix}")
    for key in ("split", "id", path_key, "captions"):
        if key not in raw:
            hint = " (caption_all.json under another name has no split)" if key == "split" else ""
            raise DataError(f"{where}: the key {key!r} is missing{hint}; found {', '.join(list(raw)[:8])}. {fix}")
    if not isinstance(raw["split"], str):
        raise DataError(f"{where}: 'split' must be a string, found {raw['split']!r:.80}. {fix}")
    split = raw["split"] if raw["split"] in ("train", "test") else "val"  # as the authors do
    try:
        person_id = parse_identity(raw["id"])
        return CaptionEntry(index, split, person_id, _photo_name(raw[path_key]), check_captions(raw["captions"]))
    except ValueError as error:
        raise DataError(f"{where}: {error}. {fix}") from error


def parse_identity(value: object) -> int:
    """Return an identity given as an integer or a string of digits.

    Raises:
        ValueError: If it is neither, negative or too large for an int32 label.
    """
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 12:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST_ID:
        raise ValueError(f"'id' must be an integer from 0 to {_LARGEST_ID}, found {value!r:.80}")
    return value


def _photo_name(value: object) -> str:
    if not isinstance(value, str) or not value.strip(" ./"):
        raise ValueError(f"the photo's path must be a string that names a file, found {value!r:.80}")
    parts = value.replace("\\", "/").split("/")  # a Windows path climbs out just as well
    if not parts[0] or parts[0][1:2] == ":" or ".." in parts:
        raise ValueError(f"the photo's path {value!r:.200} leaves the folder of the photos, expected a path inside it")
    return "/".join(part for part in value.split("/") if part not in ("", "."))  # pathlib would take a second or two


def check_captions(value: object) -> tuple[str, ...]:
    """Return a list of captions that are not blank, as they are.

    Raises:
        ValueError: If it is not such a list, or empty.
    """
    if not isinstance(value, list) or not value:
        raise ValueError(f"'captions' must be a list of at least one caption, found {value!r:.80}")
    for caption in value:
        if not isinstance(caption, str) or not caption.strip():
            raise ValueError(f"a caption must be a string that is not blank, found {caption!r:.80}")
    return tuple(value)


def _check_photo_names(file: Path, entries: Iterable[CaptionEntry]) -> None:
    first: dict[str, int] = {}
    for entry in entries:
        if (earlier := first.setdefault(entry.photo, entry.index)) != entry.index:
            raise DataError(
                f"{file}, entry {entry.index}: the photo {entry.photo} is already in entry {earlier}, expected each "
                "photo once. Fix: put all captions of the photo into one entry."
            )
