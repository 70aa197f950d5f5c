"""Uploaded sketches: limited in size, decoded in memory, never written to disk."""

import io

from PIL import Image

from ms_unireid.apps.sketch.pictures import decode_photo
from ms_unireid.data.pictures import DECODE_ERRORS, UnusableError, describe, opened_file
from ms_unireid.errors import DataError

MAX_BYTES = 10 * 2**20
# The largest phone cameras; decoding takes about 200 MB for a moment.
MAX_PIXELS = 50_000_000
ACCEPTED_SUFFIXES = ".jpg,.jpeg,.png,.bmp,.gif,.webp,.ppm,.pgm,.tif,.tiff"


def decode_upload(data: bytes) -> Image.Image:
    """Decode the bytes of a picture file: mode RGB, upright, on white, at most 1,024 pixels on the longer side.

    Raises:
        DataError: If it has too many bytes or pixels, is animated or damaged, or is not a picture in a known format.
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
    # MPO is a phone's photo followed by a preview or a depth map.
    return picture.format != "MPO" and getattr(picture, "is_animated", False)
