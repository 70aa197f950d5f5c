"""Uploaded sketches: bounded, decoded in memory, never written to disk."""

import io

from PIL import Image

from ms_unireid.apps.sketch.pictures import decode_photo
from ms_unireid.data.pictures import DECODE_ERRORS, UnusableError, describe, opened_file
from ms_unireid.errors import DataError

MAX_BYTES = 10 * 2**20
# The largest cameras of telephones; decoding so many takes 200 MB for a moment.
MAX_PIXELS = 50_000_000


def decode_upload(data: bytes) -> Image.Image:
    """Decode an uploaded sketch.

    Args:
        data: The bytes of one picture file, whatever it is called.

    Returns:
        The picture in mode RGB, upright, on white where it is transparent, its longer side 1,024 pixels at most.

    Raises:
        DataError: If it is too large in bytes or pixels, animated, damaged, or not a picture in a known format.
    """
    try:
        return _decode(data)
    except Image.DecompressionBombError as error:
        reason, cause = f"more pixels than Pillow opens, expected at most {MAX_PIXELS:,}", error
    except DECODE_ERRORS as error:
        reason, cause = describe(error), error
    raise DataError(f"The upload cannot be used: {reason}. Upload one still picture.") from cause


def _decode(data: bytes) -> Image.Image:
    if len(data) > MAX_BYTES:
        raise UnusableError(f"{len(data):,} bytes, expected at most {MAX_BYTES:,}")
    with opened_file(io.BytesIO(data)) as picture:
        width, height = picture.size
        if width * height > MAX_PIXELS:
            raise UnusableError(f"{width:,} x {height:,} pixels, expected at most {MAX_PIXELS:,} in all")
        if _is_animated(picture):
            raise UnusableError("an animated picture, or one of several pages")
        return decode_photo(picture)


def _is_animated(picture: Image.Image) -> bool:
    # MPO: the photo of a telephone with a preview or a depth map behind it; its first picture is the photo.
    return picture.format != "MPO" and getattr(picture, "is_animated", False)


ACCEPTED_SUFFIXES = ".jpg,.jpeg,.png,.bmp,.gif,.webp,.ppm,.pgm,.tif,.tiff"
