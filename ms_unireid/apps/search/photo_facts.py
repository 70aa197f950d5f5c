"""When and by which camera a photo was taken, as the beginning of its file (EXIF) and its name tell."""

import datetime
import io
import re
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import ExifTags

from ms_unireid.data.pictures import DECODE_ERRORS, opened, opened_file

FACTS = 1  # raise it when the rules below change: indexes read the facts of their photos again, without encoding any
_MAX_CHARACTERS = 100  # of a camera's name
_TAGS = (ExifTags.Base.DateTimeOriginal, ExifTags.Base.DateTime, ExifTags.Base.Make, ExifTags.Base.Model)
_TEXT, _MAX_BYTES, _MAX_TAGS = 2, 1000, 1000  # the type of texts in EXIF; limits of one text and of one directory
_EXIF_TIME = re.compile(r"\s*([0-9]{4})[:/-]([0-9]{2})[:/-]([0-9]{2})[ T]([0-9]{2}):([0-9]{2}):([0-9]{2})")
# 20240501_123015, 2024-05-01 12.30.15, 2024-05-01 at 12.30.15; also with milliseconds. A clock of twelve hours is not
# read.
_NAME_TIME = re.compile(
    r"(?<![0-9])(199[0-9]|20[0-9]{2}|2100)([-_.]?)([0-9]{2})\2([0-9]{2})"
    r"(?:[-_. T]?| at )([0-9]{2})([-_.:]?)([0-9]{2})\6([0-9]{2})(?:[-_.]?[0-9]{3})?(?![0-9]|\s?[AaPp][Mm])"
)
_CAMERA = re.compile(r"_c([0-9]{1,4})(?:s[0-9]{1,4})?(?=_)")  # Market-1501: 0002_c1s1_000451_03.jpg; RSTPReid, DukeMTMC
_MSMT_CAMERA = re.compile(r"[0-9]{4}_[0-9]{3}_([0-9]{2})_[0-9]{4}(?:morning|noon|afternoon)_")  # and ICFG-PEDES


class Facts(NamedTuple):
    """What is known of a photo; None what is not."""

    taken: str | None = None  # local time, ISO: YYYY-MM-DDTHH:MM:SS
    camera: str | None = None  # its number in a data set's file names, or its make and model


def photo_facts(photo: Path | BinaryIO, name: str) -> Facts:
    """Read the facts of a photo; its name counts for the camera first, and for the time last.

    Only what stands before the pixels is read. Damaged tags are no tags, and a file that cannot be read has none.
    """
    name = name.rpartition("/")[2]
    try:
        with opened(photo) if isinstance(photo, Path) else opened_file(photo) as picture:
            exif = picture.info.get("exif", b"").removeprefix(b"Exif\0\0")
            tags = _read_tags(picture.fp if picture.format == "TIFF" else io.BytesIO(exif))
    except DECODE_ERRORS:
        tags = {}
    times = (_time(_EXIF_TIME, tags.get(tag, "")) for tag in _TAGS[:2])
    return Facts(next(filter(None, times), None) or _time(_NAME_TIME, name), _named_camera(name) or _maker(tags))


def _read_tags(file: BinaryIO) -> dict[int, str]:
    """Read the tags that count from EXIF, which has the form of a TIFF file.

    Pillow decodes all tags of a directory, and a damaged file can have hundreds of megabytes of them.
    """
    file.seek(0)
    head = file.read(8)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(head[:4])
    if order is None:
        return {}
    tags, places = {}, list(struct.unpack(f"{order}L", head[4:]))
    for place in places:  # of the directories: the first one names the second
        file.seek(place)
        (count,) = struct.unpack(f"{order}H", file.read(2).ljust(2, b"\0"))  # none behind the end
        entries = file.read(12 * min(count, _MAX_TAGS))
        for tag, kind, size, value in struct.iter_unpack(f"{order}HHL4s", entries[: len(entries) // 12 * 12]):
            (place,) = struct.unpack(f"{order}L", value)
            if tag == ExifTags.IFD.Exif and len(places) == 1:
                places.append(place)
            elif tag in _TAGS and kind == _TEXT:
                if size > len(value):
                    file.seek(place)
                    value = file.read(min(size, _MAX_BYTES))
                tags[tag] = value[:size].decode(errors="replace").rstrip("\0")
    return tags


def _time(pattern: re.Pattern, text: str) -> str | None:
    """Return the first time in a text that exists."""
    for match in pattern.finditer(text):
        numbers = [int(group) for group in match.groups() if group.isdecimal()]
        try:
            return datetime.datetime(*numbers).isoformat()
        except ValueError:
            continue
    return None


def _named_camera(name: str) -> str | None:
    if found := _MSMT_CAMERA.match(name):
        return found[1]
    found = set(_CAMERA.findall(name))
    return found.pop() if len(found) == 1 else None


def _maker(tags: dict[int, str]) -> str | None:
    make, model = (_printable(tags.get(tag, "")) for tag in _TAGS[2:])
    name = model if model.casefold().startswith(make.casefold()) else f"{make} {model}"
    return name.strip()[:_MAX_CHARACTERS].strip() or None


def _printable(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
