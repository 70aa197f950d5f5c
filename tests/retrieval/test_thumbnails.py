"""Photos for the page: those of the index alone, small, and never a file as it lies on disk."""

import io

import pytest
from data.tri_factory import put_picture
from PIL import Image

from ms_unireid.errors import DataError
from ms_unireid.retrieval.thumbnails import LARGEST, Thumbnails


@pytest.fixture
def photos(tmp_path):
    sizes = [(40, 120), (2000, 3000), (9, 6000)]
    return [put_picture(tmp_path / f"{i}.png", size, "PNG") for i, size in enumerate(sizes)]


def test_a_photo_is_encoded_anew_and_bounded(photos):
    thumbnails = Thumbnails(photos)
    for row in range(3):
        with Image.open(io.BytesIO(thumbnails.get(row))) as picture:
            assert picture.format == "JPEG"
            assert picture.width <= LARGEST[0] and picture.height <= LARGEST[1]
            if row == 0:
                assert picture.size == (40, 120) and picture.getpixel((20, 60))[0] > 180


@pytest.mark.parametrize("row", [-1, 3, 10**12])
def test_other_rows_are_refused(photos, row):
    with pytest.raises(DataError, match=f"row {row} is not in the index, which has 3"):
        Thumbnails(photos).get(row)


def test_a_photo_that_is_gone_or_damaged_is_refused(photos):
    thumbnails = Thumbnails(photos)
    photos[0].unlink()
    photos[1].write_bytes(b"no picture")
    with pytest.raises(DataError, match="does not exist"):
        thumbnails.get(0)
    with pytest.raises(DataError, match="not a picture"):
        thumbnails.get(1)
