"""Picture files: the one reader of all rooms, checks of many before a run, and the files of a folder."""

import contextlib
import logging
import os
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from ms_unireid.errors import DataError, UserError, escaped
from ms_unireid.files import FIGURES, open_regular, replacing
from ms_unireid.installation import install_extra

READER = 2  # raise it when `to_rgb` gives other pixels than before: indexes and decoded pictures are brought up to date
MAX_PIXELS = 8192 * 6144  # of a phone's photo in "50 megapixels"; decoding one takes less than 1 GiB in every format
MAX_SIDE = 65_535  # of a JPEG; a longer line of pixels takes memory out of proportion
MAX_BYTES = 1 << 29  # 50 million pixels of 4 x 16 bits, uncompressed
_MAX_SLOW_PIXELS = 1_000_000  # of a PPM in text or with an odd range, which Pillow decodes in Python
# A fixed list: no file reaches a decoder that starts another program (EPS) or is rarely used.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM", "TIFF", "AVIF")
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".gif", ".webp", ".ppm", ".pgm", ".pbm",
    ".pnm", ".tif", ".tiff", ".avif", ".avifs", ".heic", ".heif", ".hif",
)  # fmt: skip
FIX = (
    "Fix: copy the file again from where it came from, or save it as a JPEG or PNG: one still picture of 8 bits and at "
    "most 50 megapixels."
)
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PNG_HEAD, _PNG_TAIL = b"\x89PNG\r\n\x1a\n", b"\x00\x00\x00\x00IEND\xaeB`\x82"
_JPEG_HEAD, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_TAIL_BYTES = 64  # some cameras pad a JPEG after its end marker
_CHUNK, _THREADS, _NAMED = 512, 8, 5  # threads hide the latency of network disks
# What Pillow warns of (tags, palettes) and logs; what matters is raised.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())


class UnusableError(Exception):
    """A picture is refused although a decoder might accept it; the message is for the user."""


# What Pillow's decoders raise on damaged files, or for a format or conversion that this build of Pillow lacks.
DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError, EOFError,
    ImportError, MemoryError, RuntimeError, struct.error, zlib.error, Image.DecompressionBombError, UnusableError,
)  # fmt: skip


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open a picture as `opened_file` does."""
    with open_regular(path) as file, opened_file(file) as picture:
        yield picture


@contextlib.contextmanager
def opened_file(file: BinaryIO) -> Iterator[Image.Image]:
    """Open the picture in a file or in memory without reading its pixels, and close it at the end.

    It raises one of `DECODE_ERRORS` if the picture is empty, too large, animated, of several pages, or cannot be read.
    """
    size = file.seek(0, os.SEEK_END)
    if not size:
        raise UnusableError("the file is empty (0 bytes)")
    if size > MAX_BYTES:
        raise UnusableError(f"{size:,} bytes, expected at most {MAX_BYTES:,}")
    file.seek(0)
    with Image.open(file, formats=_formats(file)) as picture:
        _check(picture)
        yield picture


def _formats(file: BinaryIO) -> tuple[str, ...]:
    head = file.read(64)
    file.seek(0)
    if head[4:8] != b"ftyp" or not any(brand in head for brand in _HEIC_BRANDS):
        return FORMATS
    try:
        import pillow_heif
    except ImportError as error:
        raise UnusableError(f"a HEIC picture; reading it needs: {install_extra('heic')}") from error
    pillow_heif.register_heif_opener(thumbnails=False)
    return ("HEIF",)


def _check(picture: Image.Image) -> None:
    """Refuse what is too large, animated or of several pages, before its pixels are decoded."""
    width, height = picture.size
    slow = bool(picture.tile) and picture.tile[0][0].startswith("ppm")
    most = _MAX_SLOW_PIXELS if slow else MAX_PIXELS
    if width * height > most or max(width, height) > MAX_SIDE:
        kind = " for a PPM in text or with an odd range" if slow else ""
        raise UnusableError(f"{width}x{height} pixels, expected at most {most:,} in all and {MAX_SIDE:,} a side{kind}")
    # A phone's MPO or HEIC has the photo first; behind it are previews, depth maps or further shots.
    if picture.format not in ("MPO", "HEIF") and getattr(picture, "is_animated", False):
        kind = "has several pages" if picture.format == "TIFF" else "is animated"
        raise UnusableError(f"{kind}, expected a still picture")


def describe(error: Exception) -> str:
    """Return one of `DECODE_ERRORS` in words, in one line."""
    if isinstance(error, FileNotFoundError):
        return "the file does not exist"
    if isinstance(error, UnidentifiedImageError):
        return f"not a picture in a known format ({', '.join(FORMATS)}), or its beginning is damaged"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be opened ({error.strerror})"
    if isinstance(error, OSError):
        return f"truncated or damaged picture ({escaped(str(error))})"
    if isinstance(error, MemoryError):
        return "too large for the memory that is free"
    if isinstance(error, Image.DecompressionBombError):
        return f"more pixels than Pillow opens, expected at most {MAX_PIXELS:,}"
    if isinstance(error, UnusableError):
        return str(error)
    return f"damaged picture ({type(error).__name__}: {escaped(str(error))})"


def load_picture(path: Path, max_side: int | None = None) -> Image.Image:
    """Read one picture completely, as `to_rgb` gives it; reduced to `max_side` pixels on its longer side if given.

    A file that is no whole, still picture of at most `MAX_PIXELS` raises a DataError.
    """
    try:
        with open_regular(path) as file:
            return decode_picture(file, max_side)
    except DECODE_ERRORS as error:
        raise DataError(f"{path}: {describe(error)}. {FIX}") from error


def decode_picture(file: BinaryIO, max_side: int | None = None) -> Image.Image:
    """Decode the picture in an open file or in memory as `load_picture`; it raises one of `DECODE_ERRORS`."""
    with opened_file(file) as picture:
        if max_side is None:
            return to_rgb(picture, own=True)
        picture.draft("RGB", (max_side, max_side))  # a JPEG is decoded at a smaller scale
        rgb = to_rgb(picture, own=True)
    rgb.thumbnail((max_side, max_side), Image.Resampling.BICUBIC)
    return rgb


def to_rgb(picture: Image.Image, own: bool = False) -> Image.Image:
    """Return a picture of any mode in mode RGB: upright by its orientation tag, on white where it is transparent.

    It raises one of `DECODE_ERRORS` if that cannot be done. With `own` the picture given may be returned, with its info
    removed: copying a large one takes half as long as decoding it.
    """
    picture = upright(picture)
    if picture.has_transparency_data:
        layer = picture if picture.mode == "RGBA" else picture.convert("RGBA")
        rgb = Image.new("RGB", layer.size, "white")
        rgb.paste(layer, mask=layer)  # less memory than `alpha_composite`, the same pixels
    else:
        rgb = picture if own and picture.mode == "RGB" else picture.convert("RGB")
    rgb.info = {}  # the orientation is not to be applied again
    return rgb


def upright(picture: Image.Image) -> Image.Image:
    """Turn a picture by its orientation tag, and scale 16 bits to 8; modes of 8 bits stay.

    Values without a known range, floating-point or beyond 16 bits, raise an UnusableError.
    """
    _scale_transparency(picture)
    picture.load()  # a PNG may have its tags after its pixels
    turn = _TURNS.get(orientation(picture))
    if picture.mode == "La":
        picture = picture.convert("LA")
    elif picture.mode[0] in "IF":
        picture = _to_8_bits(picture)
    return picture if turn is None else picture.transpose(turn)


def read_otherwise(picture: Image.Image) -> list[str]:
    """List what makes `to_rgb` give other pixels than `Image.convert` alone, with which the authors read pictures."""
    found = ["an orientation tag"] if orientation(picture) in _TURNS else []
    if picture.mode[0] in "IF":
        found.append("more than 8 bits")
    elif picture.has_transparency_data and upright(picture).convert("RGBA").getextrema()[3][0] < 255:
        found.append("transparency")
    return found


def orientation(picture: Image.Image) -> int | None:
    """Return the orientation tag of a picture, 1 to 8; None without a usable one."""
    try:
        found = picture.getexif().get(ExifTags.Base.Orientation)
    except DECODE_ERRORS:  # damage in the tags does not harm the pixels
        return None
    return int(found) if found in range(1, 9) else None


def _scale_transparency(picture: Image.Image) -> None:
    """Scale the transparent colour of a PNG as Pillow scales the pixels, which it forgets."""
    key, tile = picture.info.get("transparency"), getattr(picture, "tile", None)
    scale = {"L;2": 85, "L;4": 17, "RGB;16B": 1 / 256}.get(tile[0][3]) if picture.format == "PNG" and tile else None
    if scale and key is not None:
        picture.info["transparency"] = tuple(int(v * scale) for v in key) if isinstance(key, tuple) else key * scale


def _to_8_bits(picture: Image.Image) -> Image.Image:
    """Scale 16-bit grey, which Pillow would cut at 255; numbers of mode I have 16 bits if one is above 255."""
    if picture.mode == "F":
        raise UnusableError("a picture of floating-point numbers, expected 8 or 16 bits")
    tags, values = getattr(picture, "tag_v2", {}), np.asarray(picture)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise UnusableError(f"a picture of whole numbers from {low} to {high}, expected 8 or 16 bits")
    bits = 8 if picture.mode == "I" and picture.format != "PPM" and high <= 255 else 16
    if tags.get(258) == (12,):  # bits per sample
        bits = 12
    grey = (values >> (bits - 8)).astype(np.uint8)
    if tags.get(262) == 0 and picture.mode != "I":  # zero is white
        grey = 255 - grey
    scaled = Image.fromarray(grey)
    if "transparency" in picture.info:
        scaled.putalpha(Image.fromarray(np.where(values == picture.info["transparency"], 0, 255).astype(np.uint8)))
    return scaled


def jpeg_grey(data: bytes) -> np.ndarray | None:
    """Decode a JPEG with libjpeg-turbo: uint8 grey (H, W, 1); None for other files.

    Damage that Pillow may decode without a word raises a ValueError.
    """
    import simplejpeg

    return simplejpeg.decode_jpeg(data, colorspace="GRAY", strict=True) if data.startswith(_JPEG_HEAD) else None


def check_pictures(paths: Iterable[Path]) -> None:
    """Check that every picture can be read; bad ones raise a DataError with their number and the first five.

    A PNG or JPEG with a correct beginning and end counts as whole; any other file is decoded.
    """
    unique = list(dict.fromkeys(paths))
    chunks = [unique[start : start + _CHUNK] for start in range(0, len(unique), _CHUNK)]
    with ThreadPoolExecutor(_THREADS) as pool:
        bad = [found for chunk in pool.map(_defects, chunks) for found in chunk]
    if bad:
        listed = "; ".join(f"{path}: {defect}" for path, defect in bad[:_NAMED])
        more = f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        raise DataError(f"{len(bad)} of {len(unique)} pictures cannot be used. {listed}{more}. {FIX}")


def list_files(folder: Path, unusable: bool = False) -> frozenset[str]:
    """List the files of a folder and its sub-folders, following links: relative paths with forward slashes.

    With `unusable`, also what cannot be read as a file: links to nothing, pipes and devices. One listing is faster than
    tens of thousands of look-ups, and its letter case is exact on every file system. A folder that cannot be read
    raises a DataError.
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
                    elif unusable or entry.is_file():
                        found.add(prefix + entry.name)
    except OSError as error:
        raise DataError(
            f"{error.filename or folder}: cannot be listed ({error.strerror}). Fix: check the path and its permissions."
        ) from error
    return frozenset(found)


def save_figure(picture: Image.Image, path: Path) -> None:
    """Write a drawn picture in the format that its name ends in, one of `FIGURES`; if it cannot, raise a UserError."""
    if path.suffix.lower() not in FIGURES:
        raise UserError(f"{path}: expected a name that ends in {', '.join(FIGURES)}")
    with replacing(path) as temporary:
        picture.save(temporary, quality=95)


def _defects(paths: list[Path]) -> list[tuple[Path, str]]:
    found = []
    for path in paths:
        try:
            if not looks_whole(path):
                with open_regular(path) as file:
                    decode_picture(file)
        except DECODE_ERRORS as error:
            found.append((path, describe(error)))
    return found


def looks_whole(path: Path) -> bool:
    """Return whether a file begins and ends as a PNG or a JPEG does, without reading the rest."""
    with open_regular(path) as file:
        head = file.read(8)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        tail = file.read(_TAIL_BYTES)
    # The end marker cannot occur in compressed JPEG data: 00 or a restart marker follows every FF there.
    return (head == _PNG_HEAD and tail.endswith(_PNG_TAIL)) or (head.startswith(_JPEG_HEAD) and _JPEG_END in tail)
