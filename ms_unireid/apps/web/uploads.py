"""Uploaded sketches: limited in size, decoded in memory, never written to disk."""

import io

from PIL import Image

from ms_unireid.apps.sketch.pictures import MAX_SIDE
from ms_unireid.data.pictures import DECODE_ERRORS, SUFFIXES, decode_picture, describe
from ms_unireid.errors import DataError

MAX_BYTES = 10 * 2**20
ACCEPTED_SUFFIXES = ",".join(SUFFIXES)


def decode_upload(data: bytes) -> Image.Image:
    """Decode the bytes of a picture file: mode RGB, upright, on white, at most 1,024 pixels on the longer side.

    Raises:
        DataError: If it has too many bytes or pixels, is animated or damaged, or is not a picture in a known format.
    """
    if len(data) > MAX_BYTES:
        raise DataError(_message(f"{len(data):,} bytes, expected at most {MAX_BYTES:,}"))
    try:
        return decode_picture(io.BytesIO(data), MAX_SIDE)
    except DECODE_ERRORS as error:
        raise DataError(_message(describe(error))) from error


def _message(reason: str) -> str:
    return f"The upload cannot be used: {reason}. Upload one still picture."
