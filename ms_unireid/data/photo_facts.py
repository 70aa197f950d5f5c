"""When and by which camera a photo was taken, as the beginning of its file (EXIF) and its name tell."""

import datetime
import re
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import ExifTags, Image

from ms_unireid.data.pictures import DECODE_ERRORS, opened, opened_file

FACTS = 1  # raise it when the rules below change: indexes read the facts of their photos again, without encoding any
_MAX_CHARACTERS = 100  # of a camera's name
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
            # A PNG's own `getexif` looks for tags behind the pixels, and so decodes them.
            exif = Image.Image.getexif(picture)
            tags = {**exif, **exif.get_ifd(ExifTags.IFD.Exif)}
    except DECODE_ERRORS:
        tags = {}
    times = (_time(_EXIF_TIME, tags.get(tag)) for tag in (ExifTags.Base.DateTimeOriginal, ExifTags.Base.DateTime))
    return Facts(next(filter(None, times), None) or _time(_NAME_TIME, name), _named_camera(name) or _maker(tags))


def _time(pattern: re.Pattern, text: object) -> str | None:
    """Return the first time in a text that exists."""
    for match in pattern.finditer(text) if isinstance(text, str) else ():
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


def _maker(tags: dict[int, object]) -> str | None:
    make, model = (_printable(tags.get(tag)) for tag in (ExifTags.Base.Make, ExifTags.Base.Model))
    name = model if model.casefold().startswith(make.casefold()) else f"{make} {model}"
    return name.strip()[:_MAX_CHARACTERS].strip() or None


def _printable(text: object) -> str:
    if not isinstance(text, str):
        return ""
    return " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * _MAX_CHARACTERS]).split())
