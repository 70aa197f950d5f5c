"""The rows of a file that describes people's own collections: JSON, JSONL or CSV, and what its columns mean."""

import csv
import functools
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ms_unireid.data.annotations import check_captions, parse_path, parse_split
from ms_unireid.data.findings import listed
from ms_unireid.data.folders import contents, is_system_file, read_entries, read_text
from ms_unireid.errors import DataError, is_unicode, shown
from ms_unireid.files import parse_json
from ms_unireid.modalities import TEXT

PHOTO = "file_path"  # the column of the photos
_ENDINGS = (".json", ".jsonl", ".csv")
_ID, _SPLIT = "id", "split"
_FORM = f"a row for each photo, with the columns {_ID}, {PHOTO} and caption"
_FIX = "Fix: write it again; docs/datasets.md describes it."


@dataclass(frozen=True)
class Row:
    """A valid row; paths have forward slashes, and are relative to the data set's folder or to `imgs/` in it."""

    where: str  # place in the file
    split: str  # empty without one
    person: str
    photo: str
    captions: tuple[str, ...]
    pictures: Mapping[str, tuple[str, ...]]  # by modality

    @property
    def files(self) -> dict[str, tuple[str, ...]]:
        """The paths by column."""
        return {PHOTO: (self.photo,), **self.pictures}


def find_file(folder: Path, given: str | None) -> Path:
    """Return the given file, or the folder's: the only one of a known format, or of the name pairs.

    DataError if there is none.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Fix: set data.root to the folder of your collection.")
    if given is not None:
        if not given.lower().endswith(_ENDINGS):
            raise DataError(f"{given}: expected a file that ends in {', '.join(_ENDINGS)}. Fix: name it so.")
        return Path(given)
    files = (path for path in folder.iterdir() if path.suffix.lower() in _ENDINGS and path.is_file())
    found = sorted(path.name for path in files if not is_system_file(path.name))
    usual = [name for name in found if name.lower().startswith("pairs.")]
    if len(usual or found) == 1:
        return folder / (usual or found)[0]
    there = f"several: {listed(found)}" if found else f"none; the folder holds {contents(folder)}"
    raise DataError(
        f"{folder}: expected one file that ends in {', '.join(_ENDINGS)}, with {_FORM}; found {there}. "
        "Fix: call yours pairs.csv, or name it by data.annotations=FILE."
    )


def read_rows(file: Path) -> Iterator[tuple[str, object]]:
    """Yield the place and the content of each row; one that is not of the format raises a DataError."""
    ending = file.suffix.lower()
    if ending == ".json":
        rows = read_entries(file, list, f"a JSON list with {_FORM}", _FIX)
        yield from ((f"entry {index}", row) for index, row in enumerate(rows))
        return
    text = read_text(file, _FIX)
    if not text.strip():
        raise DataError(f"{file}: expected {_FORM}, found an empty file. {_FIX}")
    number = 0
    try:
        if ending == ".csv":
            for number, row in _csv_rows(text):
                yield f"line {number}", row
        else:
            for number, line in enumerate(text.split("\n"), 1):
                if line.strip():
                    yield f"line {number}", parse_json(line)
    except (ValueError, csv.Error) as error:
        raise DataError(f"{file}, after line {max(number - 1, 0)}: not valid {ending[1:]} ({error}). {_FIX}") from error


def _csv_rows(text: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the first line and the cells of each record; spreadsheets part them by commas or semicolons."""
    first = text.partition("\n")[0]
    cells_of = csv.reader(io.StringIO(text), delimiter=";" if first.count(";") > first.count(",") else ",", strict=True)
    header, line = None, 1
    for cells in cells_of:
        if header is None:
            header = [name.strip().lower() for name in cells]
            if twice := [name for name in header if name and header.count(name) > 1]:
                raise ValueError(f"two columns are called {shown(twice[0])}")
        elif any(cell.strip() for cell in cells):
            if len(cells) > len(header):
                raise ValueError(f"{len(cells)} cells for {len(header)} columns; put texts into double quotes")
            yield line, dict(zip(header, cells, strict=False))
        line = cells_of.line_num + 1


def unnumbered(key: str) -> str:
    """Return the name that numbered columns share: caption_2 is a caption."""
    return re.sub(r"_[0-9]{1,3}$", "", key)


@functools.lru_cache(maxsize=4096)
def meaning(key: str, modalities: tuple[str, ...]) -> str | None:
    """Return what a column holds: split, id, file_path, text or a modality; None if it is not read."""
    plain = unnumbered(key)
    meanings = {_SPLIT: _SPLIT, _ID: _ID, PHOTO: PHOTO} if plain == key else {}
    return (meanings | {"caption": TEXT, "captions": TEXT} | {name: name for name in modalities}).get(plain)


def parse_row(where: str, raw: object, modalities: tuple[str, ...]) -> Row:
    """Check a row; a malformed one raises a ValueError. What is blank or null is not there."""
    if not isinstance(raw, dict):
        raise ValueError(f"expected an object, found {type(raw).__name__}")
    found: dict[str, list] = {name: [] for name in (_SPLIT, _ID, PHOTO, TEXT, *modalities)}
    for key, value in raw.items():
        held = meaning(key, modalities)
        if held is not None:
            found[held] += [one for one in (value if isinstance(value, list) else [value]) if not _is_blank(one)]
    for name in (_ID, PHOTO):
        if len(found[name]) != 1:
            raise ValueError(f"expected one {name!r}, found {shown(found[name]) if found[name] else 'none'}")
    if lists := [text for text in found[TEXT] if isinstance(text, str) and text.startswith(("['", '["'))]:
        raise ValueError(f"a list in a text, {shown(lists[0])}; use a column for each caption: caption, caption_2, ...")
    return Row(
        where,
        parse_split(found[_SPLIT][0]) if found[_SPLIT] else "",
        _person(found[_ID][0]),
        parse_path(found[PHOTO][0]),
        check_captions(found[TEXT]) if found[TEXT] else (),
        {name: tuple(parse_path(path, name) for path in found[name]) for name in modalities},
    )


def _is_blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _person(value: object) -> str:
    if not (type(value) is int or (isinstance(value, str) and is_unicode(value))):
        raise ValueError(f"'{_ID}' must be a whole number or a text, found {shown(value)}")
    return str(value).strip()
