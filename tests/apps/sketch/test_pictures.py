"""Photos of every mode become upright 8-bit RGB; unreadable files are named."""

import numpy as np
import pytest
from apps.sketch.photo_factory import person
from PIL import Image

from ms_unireid.apps.sketch.pictures import MAX_SIDE, pad_to, read_mask, read_photo, read_sketch, resize
from ms_unireid.errors import DataError


def test_transparency_is_white_in_a_photo_and_the_mask_in_a_mask(tmp_path):
    pixels = np.zeros((4, 2, 4), np.uint8)
    pixels[:2, :, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_photo(tmp_path / "a.png")[:, 0, 0].tolist() == [0, 0, 255, 255]
    assert read_sketch(tmp_path / "a.png")[:, 0].tolist() == [0, 0, 255, 255]
    assert read_mask(tmp_path / "a.png")[:, 0].tolist() == [255, 255, 0, 0]


@pytest.mark.parametrize("size", [(13, 34), (1, 1), (4000, 4000), (300, 4000)])
def test_sizes(tmp_path, size):
    person(size).save(tmp_path / "a.jpg")
    height, width, _ = read_photo(tmp_path / "a.jpg").shape
    assert max(height, width) == min(max(size), MAX_SIDE)
    assert abs(width / height - size[0] / size[1]) < 0.02


@pytest.mark.parametrize("content", [b"", b"not a picture", b"%!PS-Adobe-3.0 EPSF-3.0\n", None])
def test_unreadable_files_are_named(tmp_path, content):
    path = tmp_path / "bad.png"
    if content is None:
        person().save(path)
        content = path.read_bytes()[:900]
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.png: .*Fix: "):
        read_photo(path)


@pytest.mark.parametrize("size", [(60, 160), (13, 34), (160, 60), (1, 500)])
@pytest.mark.parametrize("fill", [1.0, 0.65])
def test_padding_can_be_removed_exactly(size, fill):
    photo = np.asarray(person(size))
    padded, place = pad_to(photo, (384, 288), fill)
    assert padded.shape == (384, 288, 3)
    inner = padded[place]
    assert max(inner.shape[0] / 384, inner.shape[1] / 288) == pytest.approx(fill, abs=0.01)
    assert (padded[:, 0] == padded[:, place[1].start]).all()  # repeated edge
    assert np.abs(resize(inner, photo.shape[:2]).astype(int) - photo).mean() < 12
