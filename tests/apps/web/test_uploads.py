"""Uploads: decoded upright on white or refused with a reason, in limited memory and without files."""

import os
import tracemalloc

import numpy as np
import pytest
from apps.web.hostile_uploads import HOSTILE, encoded, still
from PIL import Image

from ms_unireid.apps.web import uploads
from ms_unireid.apps.web.uploads import MAX_BYTES, decode_upload
from ms_unireid.data.pictures import FORMATS
from ms_unireid.errors import DataError


@pytest.mark.parametrize("name", HOSTILE)
def test_unusable_uploads_are_refused_with_a_reason(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, reason = HOSTILE[name]
    tracemalloc.start()
    with pytest.raises(DataError, match=reason) as error:
        decode_upload(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**25 and "\n" not in str(error.value) and len(str(error.value)) < 300
    assert os.listdir(tmp_path) == []


def test_too_many_bytes_are_refused_before_decoding(monkeypatch):
    monkeypatch.setattr(uploads, "decode_picture", None)
    with pytest.raises(DataError, match=r"10,485,761 bytes, expected at most 10,485,760"):
        decode_upload(bytes(MAX_BYTES + 1))


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_read(format):
    picture = decode_upload(still(format))
    assert (picture.mode, picture.size) == ("RGB", (40, 120)) and np.asarray(picture).min() > 250


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "1", "P", "I;16"])
def test_every_kind_of_pixel_is_read(mode):
    white = Image.new("I;16", (40, 120), 65535) if mode == "I;16" else Image.new("L", (40, 120), 255).convert(mode)
    picture = decode_upload(encoded(white, "PNG"))
    assert picture.mode == "RGB" and np.asarray(picture).min() >= 254


def test_transparent_areas_become_white():
    sketch = Image.new("RGBA", (40, 120), (0, 0, 0, 0))
    sketch.paste((0, 0, 0, 255), (10, 10, 14, 110))
    pixels = np.asarray(decode_upload(encoded(sketch, "PNG")))
    assert pixels[60, 12].tolist() == [0, 0, 0] and pixels[60, 30].tolist() == [255, 255, 255]


def test_a_rotated_phone_photo_is_upright():
    lying = Image.new("L", (120, 40), 255)
    lying.paste(0, (0, 0, 60, 40))
    orientation = Image.Exif()
    orientation[0x0112] = 6  # turn clockwise
    pixels = np.asarray(decode_upload(encoded(lying, "JPEG", exif=orientation.tobytes())))
    assert pixels.shape == (120, 40, 3) and pixels[10].mean() < 50 and pixels[110].mean() > 200


def test_a_photo_with_a_preview_is_not_animated():
    frames = [Image.new("RGB", (40, 120), colour) for colour in ("white", "black")]
    picture = decode_upload(encoded(frames[0], "MPO", save_all=True, append_images=frames[1:]))
    assert np.asarray(picture).min() > 250


def test_a_large_photo_is_reduced():
    picture = decode_upload(still("JPEG", (3000, 4000)))
    assert max(picture.size) == 1024
