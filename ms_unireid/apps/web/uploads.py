"""Uploaded sketches: limited in size, decoded in memory, never written to disk."""

import io

from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from ms_unireid.apps.sketch.pictures import MAX_SIDE
from ms_unireid.data.pictures import DECODE_ERRORS, SUFFIXES, UnusableError, decode_picture, describe
from ms_unireid.errors import DataError

MAX_BYTES = 10 * 2**20
MAX_REQUEST = MAX_BYTES + (1 << 16)  # bytes of the request with it
ACCEPTED_SUFFIXES = ",".join(SUFFIXES)


async def read_upload(request: Request) -> bytes:
    """Return the file of a form with one file; HTTPException 400 for any other request."""
    try:
        async with request.form(max_files=1, max_fields=0) as form:
            files = [await file.read() for file in form.values()]
    except ClientDisconnect as error:
        raise HTTPException(400, "The request ended early.") from error
    if not files:
        raise HTTPException(400, "There is no file in the request.")
    return files[0]


def decode_upload(data: bytes) -> Image.Image:
    """Decode the bytes of a picture file: mode RGB, upright, on white, at most 1,024 pixels on the longer side.

    DataError if it has too many bytes or pixels, is animated or damaged, or is not a picture in a known format.
    """
    try:
        if len(data) > MAX_BYTES:
            raise UnusableError(f"{len(data):,} bytes, expected at most {MAX_BYTES:,}")
        return decode_picture(io.BytesIO(data), MAX_SIDE)
    except DECODE_ERRORS as error:
        raise DataError(f"The upload cannot be used: {describe(error)}. Upload one still picture.") from error
