"""Picture files: read one, check many before a run, list those of a folder."""

import contextlib
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from ms_unireid.errors import DataError

# A pedestrian crop has less than a million pixels. Pillow only warns at this size, and refuses twice the size.
MAX_PIXELS = 89_478_485
# A fixed list: no file reaches a decoder that starts another program (EPS) or is rarely used.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM", "TIFF")
FIX = "Fix: copy the file again from the data set's archive; a broken download or a full disk may have damaged it."


class UnusableError(Exception):
    """A picture is refused although a decoder might accept it; the message is for the user."""


# What Pillow's decoders raise on damaged files; KeyError for a format that this build of Pillow does not support.
DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, OverflowError, struct.error, zlib.error,
    Image.DecompressionBombError, UnusableError,
)  # fmt: skip


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open a picture without reading its pixels, and close it at the end.

    It raises one of `DECODE_ERRORS` if the picture is empty, too large or cannot be read.
    """
    with open(path, "rb") as file, opened_file(file) as picture:
        yield picture


@contextlib.contextmanager
def opened_file(file: BinaryIO) -> Iterator[Image.Image]:
    """Open the picture in an open file or in memory, as `opened` does."""
    if not file.read(1):
        raise UnusableError("the file is empty (0 bytes)")
    file.seek(0)
    with Image.open(file, formats=FORMATS) as picture:
        width, height = picture.size
        if width * height > MAX_PIXELS:
            raise UnusableError(f"{width}x{height} pixels, expected at most {MAX_PIXELS}")
        yield picture


def describe(error: Exception) -> str:
    """Return one of `DECODE_ERRORS` in words."""
    if isinstance(error, FileNotFoundError):
        return "the file does not exist"
    if isinstance(error, IsADirectoryError):
        return "a folder, expected a picture file"
    if isinstance(error, UnidentifiedImageError):
        return f"not a picture in a known format ({', '.join(FORMATS)})"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be opened ({error.strerror})"
    if isinstance(error, OSError):
        return f"truncated or damaged picture ({error})"
    if isinstance(error, Image.DecompressionBombError | UnusableError):
        return str(error)
    return f"damaged picture ({type(error).__name__}: {error})"


_PNG_HEAD, _PNG_TAIL = b"\x89PNG\r\n\x1a\n", b"\x00\x00\x00\x00IEND\xaeB`\x82"
_JPEG_HEAD, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_TAIL_BYTES = 64  # some cameras pad a JPEG after its end marker
_CHUNK, _THREADS, _NAMED = 512, 8, 5  # threads hide the latency of network disks


def load_picture(path: Path) -> Image.Image:
    """Read one picture completely, in mode RGB; as in the authors' code, without transparency and orientation tags.

    Raises:
        DataError: If the file is missing, empty, not a picture of `FORMATS`, truncated or too large.
    """
    try:
        return _decode(Path(path))
    except DECODE_ERRORS as error:
        raise DataError(f"{path}: {describe(error)}. {FIX}") from error


def check_pictures(paths: Iterable[Path]) -> None:
    """Check that every picture can be read; a path given twice is checked once.

    A PNG or JPEG with a correct beginning and end counts as whole; any other file is decoded.

    Raises:
        DataError: If any file is bad; with their number and the first five.
    """
    unique = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(_THREADS) as pool:
        bad = [found for chunk in pool.map(_defects, _chunks(unique)) for found in chunk]
    if bad:
        listed = "; ".join(f"{path}: {defect}" for path, defect in bad[:_NAMED])
        more = f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        raise DataError(f"{len(bad)} of {len(unique)} pictures cannot be used. {listed}{more}. {FIX}")


def list_files(folder: Path) -> frozenset[str]:
    """List the files of a folder and its sub-folders, following links: relative paths with forward slashes.

    One listing is faster than tens of thousands of look-ups, and its letter case is exact on every file system. A
    folder that cannot be read raises a DataError.
    """
    found: set[str] = set()
    pending = [(str(folder), "", frozenset())]
    try:
        while pending:
            place, prefix, above = pending.pop()
            status = os.stat(place)
            above, seen = above | {(status.st_dev, status.st_ino)}, above
            if (status.st_dev, status.st_ino) in seen:
                continue  # a link to a folder above would never end
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.is_dir():
                        pending.append((entry.path, f"{prefix}{entry.name}/", above))
                    elif entry.is_file():
                        found.add(prefix + entry.name)
    except OSError as error:
        raise DataError(
            f"{error.filename or folder}: cannot be listed ({error.strerror}). Fix: check the path and its permissions."
        ) from error
    return frozenset(found)


def _decode(path: Path) -> Image.Image:
    with open(path, "rb") as file:
        return decode_picture(file)


def decode_picture(file: BinaryIO) -> Image.Image:
    """Decode the picture in an open file or in memory as `load_picture`; it raises one of `DECODE_ERRORS`."""
    with opened_file(file) as picture:
        return picture.convert("RGB")


def _chunks(paths: list[Path]) -> Iterator[list[Path]]:
    remaining = iter(paths)
    while chunk := list(islice(remaining, _CHUNK)):
        yield chunk


def _defects(paths: list[Path]) -> list[tuple[Path, str]]:
    found = []
    for path in paths:
        try:
            if not looks_whole(path):
                _decode(Path(path))
        except DECODE_ERRORS as error:
            found.append((path, describe(error)))
    return found


def looks_whole(path: Path) -> bool:
    """Return whether a file begins and ends as a PNG or a JPEG does, without reading the rest."""
    with open(path, "rb", buffering=0) as file:
        head = file.read(8)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        tail = file.read(_TAIL_BYTES)
    # The end marker cannot occur in compressed JPEG data: 00 or a restart marker follows every FF there.
    return (head == _PNG_HEAD and tail.endswith(_PNG_TAIL)) or (head.startswith(_JPEG_HEAD) and _JPEG_END in tail)
