"""The index's photos for the page: by row, small, decoded and encoded again. No path comes from outside."""

import functools
import io
from collections.abc import Sequence
from pathlib import Path

from ms_unireid.data.pictures import load_picture
from ms_unireid.errors import DataError

LARGEST = (320, 480)  # width and height in pixels
_QUALITY = 88
_KEPT = 1024  # about 20 kB each


class Thumbnails:
    """Thumbnails of photos, the latest ones kept in memory."""

    def __init__(self, paths: Sequence[Path]):
        """Serve these photos.

        Args:
            paths: The photos, by row of the index.
        """
        self._paths = paths
        self._encoded = functools.lru_cache(_KEPT)(self._encode)

    def get(self, row: int) -> bytes:
        """Return a photo as a JPEG file of at most ``LARGEST``.

        Raises:
            DataError: If the index has no such row, or its photo is gone or damaged.
        """
        if not 0 <= row < len(self._paths):
            raise DataError(f"row {row} is not in the index, which has {len(self._paths)}")
        return self._encoded(row)

    def _encode(self, row: int) -> bytes:
        picture = load_picture(self._paths[row])
        picture.thumbnail(LARGEST)
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=_QUALITY)
        return file.getvalue()
