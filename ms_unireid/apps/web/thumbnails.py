"""The index's photos for the page: by row, small, decoded and encoded again. No path comes from outside."""

import functools
import hashlib
import io

from PIL import Image

from ms_unireid.apps.search.index import PhotoIndex
from ms_unireid.data.pictures import DECODE_ERRORS, decode_picture, describe
from ms_unireid.errors import DataError

LARGEST = (320, 480)  # width and height in pixels
_QUALITY = 88
_KEPT = 1024  # about 20 kB each


class Thumbnails:
    """Thumbnails of an index's photos, the latest ones kept in memory."""

    def __init__(self, index: PhotoIndex):
        """Serve the photos of an index and no other file."""
        self._index = index
        self._encoded = functools.lru_cache(_KEPT)(self._encode)

    def get(self, row: int) -> bytes:
        """Return a photo as a JPEG file of at most ``LARGEST``.

        Raises:
            DataError: If the index has no such row, or its photo is gone, damaged, or not what was indexed.
            UserError: If the index cannot be read any more.
        """
        if not 0 <= row < self._index.count:
            raise DataError(f"row {row} is not in the index, which has {self._index.count}")
        path = self._index.path(row)
        try:
            status = path.stat()
            return self._encoded(row, status.st_size, status.st_mtime_ns)
        except DECODE_ERRORS as error:
            raise DataError(f"{path}: {describe(error)}") from error

    def _encode(self, row: int, size: int, changed: int) -> bytes:
        """Encode a photo; its file's state makes it another one to remember."""
        path = self._index.path(row)
        content = path.read_bytes()
        if hashlib.sha256(content).digest() != self._index.sha256(row):
            raise DataError(f"{path}: is not the photo that was indexed; bring the index up to date")
        return _to_jpeg(decode_picture(io.BytesIO(content)))


def _to_jpeg(picture: Image.Image) -> bytes:
    picture.thumbnail(LARGEST)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
