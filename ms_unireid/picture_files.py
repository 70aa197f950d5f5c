"""Opening picture files: which formats are read, which are refused, and what a defect is called."""

import contextlib
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

# A pedestrian crop has well under a million pixels; Pillow itself only warns at this size and refuses twice of it.
MAX_PIXELS = 89_478_485
# Named so that a file in disguise never reaches a decoder that starts another program (EPS) or a rarely used one.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM", "TIFF")
FIX = "Fix: copy the file again from the data set's archive; a broken download or a full disk leaves such files."


class UnusableError(Exception):
    """A picture that a decoder would accept, or never see; the message is for the user."""


# What Pillow's decoders are known to raise on damaged files; KeyError: a format this Pillow was built without.
DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, OverflowError, struct.error, zlib.error,
    Image.DecompressionBombError, UnusableError,
)  # fmt: skip


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open a picture, its pixels not read yet, and close it at the end.

    Raises:
        One of ``DECODE_ERRORS``: If it is empty, unreasonably large, or cannot be read; `describe` words them.
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
    """Say in words what one of ``DECODE_ERRORS`` means."""
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
