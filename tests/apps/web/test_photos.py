"""Photos of the page: only indexed ones, as they were indexed, and always encoded again."""

import io
import os
from types import SimpleNamespace

import pytest
from apps.search.index_factory import update
from data.tri_factory import put_picture
from PIL import Image

from ms_unireid.apps.search.engines.embedded import PhotoIndex
from ms_unireid.apps.search.handover import THUMBNAIL
from ms_unireid.apps.web.photos import Photos
from ms_unireid.errors import DataError

SIZES = [(40, 120), (2000, 3000), (9, 6000)]


@pytest.fixture
def index(tmp_path):
    for number, size in enumerate(SIZES):
        put_picture(tmp_path / "photos" / f"{number}.png", size, "PNG")
    update(tmp_path / "index", tmp_path / "photos")
    return PhotoIndex(tmp_path / "index")


def test_a_thumbnail_is_encoded_again_and_small(index):
    photos = Photos(SimpleNamespace(index=index))
    for row in range(3):
        with Image.open(io.BytesIO(photos.get(row))) as picture:
            assert picture.format == "JPEG"
            assert picture.width <= THUMBNAIL[0] and picture.height <= THUMBNAIL[1]
            if SIZES[int(index.path(row).stem)] == (40, 120):
                assert picture.size == (40, 120) and picture.getpixel((20, 60))[0] > 180


def test_a_whole_photo_has_its_own_size(index):
    photos = Photos(SimpleNamespace(index=index))
    for row in range(3):
        size = SIZES[int(index.path(row).stem)]
        assert photos.size(row) == (*size, index.path(row).stat().st_size)
        with Image.open(io.BytesIO(photos.get(row, "full"))) as picture:
            assert picture.format == "JPEG" and picture.size == size


@pytest.mark.parametrize("row", [-1, 3, 10**12])
def test_other_rows_are_refused(index, row):
    photos = Photos(SimpleNamespace(index=index))
    for read in (photos.get, photos.picture, photos.size, lambda row: photos.get(row, "full")):
        with pytest.raises(DataError, match=f"row {row} is not in the index, which has 3 photos"):
            read(row)


def test_a_missing_or_changed_photo_is_refused(index):
    """With and without a cached thumbnail."""
    photos = Photos(SimpleNamespace(index=index))
    photos.get(0)
    for row in (0, 1):
        index.path(row).write_bytes(index.path(2).read_bytes())
        for kind in ("", "full"):
            with pytest.raises(DataError, match="has changed since it was indexed"):
                photos.get(row, kind)
        index.path(row).unlink()
        for kind in ("", "full"):
            with pytest.raises(DataError, match="does not exist"):
                photos.get(row, kind)


def test_a_photo_removed_from_the_index_is_refused(index, tmp_path):
    name = index.path(1)
    content = name.read_bytes()
    name.unlink()
    update(tmp_path / "index", tmp_path / "photos")
    name.write_bytes(content)
    with pytest.raises(DataError, match="has changed since it was indexed"):
        Photos(SimpleNamespace(index=index)).get(1)


def test_a_pipe_or_device_in_a_photos_place_is_refused(index):
    photos = Photos(SimpleNamespace(index=index))
    for row, make in enumerate((os.mkfifo, lambda path: os.symlink("/dev/zero", path), os.mkdir)):
        index.path(row).unlink()
        make(index.path(row))
        with pytest.raises(DataError, match="cannot be opened"):
            photos.get(row)


def test_a_photo_with_a_new_modification_time_is_served(index):
    content = index.path(0).read_bytes()
    index.path(0).unlink()
    index.path(0).write_bytes(content)
    assert Photos(SimpleNamespace(index=index)).get(0).startswith(b"\xff\xd8")
