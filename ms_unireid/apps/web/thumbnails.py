"""Thumbnails of indexed photos, addressed by row and never by path."""

import functools
from pathlib import Path

from ms_unireid.apps.search.handover import thumbnail
from ms_unireid.apps.search.index import PhotoIndex, indexed_content
from ms_unireid.data.pictures import DECODE_ERRORS, describe
from ms_unireid.errors import DataError

_CACHE_SIZE = 512  # about 20 kB each, at most 100


class Thumbnails:
    """Thumbnails of an index's photos; the latest are cached in memory.

    Attributes:
        index: The index; may be replaced by a newer state of it.
    """

    def __init__(self, index: PhotoIndex):
        self.index = index
        self._encoded = functools.lru_cache(_CACHE_SIZE)(self._encode)

    def get(self, row: int) -> bytes:
        """Return a photo as a JPEG file of at most `THUMBNAIL`.

        Raises:
            DataError: If the row does not exist, or the photo is missing, damaged, or has changed since indexing.
            UserError: If the index cannot be read.
        """
        index = self.index
        if not 0 <= row < index.count:
            raise DataError(f"row {row} is not in the index, which has {index.count} photos")
        path = index.path(row)
        try:
            status = path.stat()
            return self._encoded(path, index.sha256(row), status.st_size, status.st_mtime_ns)
        except DECODE_ERRORS as error:
            raise DataError(f"{path}: {describe(error)}") from error

    def _encode(self, path: Path, sha256: bytes | None, size: int, changed: int) -> bytes:
        """Encode a photo; size and modification time are part of the cache key."""
        return thumbnail(indexed_content(path, sha256))
