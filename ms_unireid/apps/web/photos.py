"""Pictures of indexed photos, addressed by row and never by path: thumbnails, full size, and heat maps."""

import functools
import io
from pathlib import Path

from PIL import ExifTags, Image

from ms_unireid.apps.search.engines.store import PhotoStore, indexed_content
from ms_unireid.apps.search.handover import thumbnail
from ms_unireid.apps.search.searcher import Searcher
from ms_unireid.data.pictures import DECODE_ERRORS, decode_picture, describe, opened_file
from ms_unireid.errors import DataError
from ms_unireid.files import status_of

KINDS = ("", "full", "heat")
_QUALITY = 88
_CACHE_SIZE = 512  # thumbnails, about 20 kB each, at most 100


class Photos:
    """Reads the photos of an index as they were indexed; the latest thumbnails are cached in memory.

    Every method raises a DataError if the row does not exist, or the photo is missing, damaged, or has changed since
    indexing, and a UserError if the index cannot be read.

    Args:
        searcher: Has the index, which may be replaced by a newer state of it.
    """

    def __init__(self, searcher: Searcher):
        self._searcher = searcher
        self._thumbnail = functools.lru_cache(_CACHE_SIZE)(_encode_thumbnail)

    def get(self, row: int, kind: str = "") -> bytes:
        """Return a photo as a JPEG file: a `thumbnail`, or its full size."""
        if kind == "full":
            return _jpeg(self.picture(row))
        index = self._index_with(row)
        path = index.path(row)
        try:
            return self._thumbnail(path, index.sha256(row), *status_of(path))
        except DECODE_ERRORS as error:
            raise DataError(f"{path}: {describe(error)}") from error

    def picture(self, row: int) -> Image.Image:
        """Return a photo at its full size, mode RGB."""
        index = self._index_with(row)
        try:
            return decode_picture(io.BytesIO(index.content(row)))
        except DECODE_ERRORS as error:
            raise DataError(f"{index.path(row)}: {describe(error)}") from error

    def heat(self, row: int) -> bytes:
        """Return a photo with the attention of the visual tower over it; call it in the searcher's thread."""
        from ms_unireid.apps.search.search_figure import heat_picture  # imports Matplotlib, which takes a second

        return _jpeg(heat_picture(self._searcher, self.picture(row)))

    def size(self, row: int) -> tuple[int, int, int]:
        """Return width and height of the upright photo in pixels, and the bytes of the file."""
        index = self._index_with(row)
        try:
            content = index.content(row)
            with opened_file(io.BytesIO(content)) as picture:
                is_turned = picture.getexif().get(ExifTags.Base.Orientation, 1) in range(5, 9)
                return *(picture.size[::-1] if is_turned else picture.size), len(content)
        except DECODE_ERRORS as error:
            raise DataError(f"{index.path(row)}: {describe(error)}") from error

    def _index_with(self, row: int) -> PhotoStore:
        index = self._searcher.index
        if not index.has(row):
            raise DataError(f"row {row} is not in the index, which has {index.count} photos")
        return index


def _encode_thumbnail(path: Path, sha256: bytes | None, size: int, changed: int) -> bytes:
    """Encode a photo; size and modification time are part of the cache key."""
    return thumbnail(indexed_content(path, sha256))


def _jpeg(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
