"""Thumbnails of indexed photos, addressed by row and never by path."""

import functools
import hashlib
import io

from PIL import Image

from ms_unireid.apps.search.index import PhotoIndex
from ms_unireid.data.pictures import DECODE_ERRORS, decode_picture, describe
from ms_unireid.errors import DataError
from ms_unireid.installation import job_command

MAX_SIZE = (320, 480)  # width and height in pixels
_QUALITY = 88
_CACHE_SIZE = 1024  # about 20 kB each


class Thumbnails:
    """Thumbnails of an index's photos; the latest are cached in memory."""

    def __init__(self, index: PhotoIndex):
        self._index = index
        self._encoded = functools.lru_cache(_CACHE_SIZE)(self._encode)

    def get(self, row: int) -> bytes:
        """Return a photo as a JPEG file of at most ``MAX_SIZE``.

        Raises:
            DataError: If the row does not exist, or the photo is missing, damaged, or has changed since indexing.
            UserError: If the index cannot be read.
        """
        if not 0 <= row < self._index.count:
            raise DataError(f"row {row} is not in the index, which has {self._index.count} photos")
        path = self._index.path(row)
        try:
            status = path.stat()
            return self._encoded(row, status.st_size, status.st_mtime_ns)
        except DECODE_ERRORS as error:
            raise DataError(f"{path}: {describe(error)}") from error

    def _encode(self, row: int, size: int, changed: int) -> bytes:
        """Encode a photo; size and modification time are part of the cache key."""
        path = self._index.path(row)
        content = path.read_bytes()
        if hashlib.sha256(content).digest() != self._index.sha256(row):
            raise DataError(f"{path}: has changed since it was indexed; update it with {job_command('search')} index")
        return _to_jpeg(decode_picture(io.BytesIO(content), max(MAX_SIZE)))


def _to_jpeg(picture: Image.Image) -> bytes:
    picture.thumbnail(MAX_SIZE)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
