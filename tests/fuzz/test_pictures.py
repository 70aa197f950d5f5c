"""Damaged pictures of every format are read as Pillow reads them, or refused."""

import io

import numpy as np
import pytest
from fuzz.fuzzing import damaged, outcome, tries
from hypothesis import given
from PIL import Image, ImageOps

from ms_unireid.data.pictures import load_picture

_SIZE = 24, 16


def _gradient(mode):
    width, height = _SIZE
    values = np.linspace(0, 255, width * height * 4).reshape(height, width, 4).astype(np.uint8)
    return Image.fromarray(values, "RGBA").convert(mode)


def _saved(form, mode, **options):
    picture = (
        Image.fromarray(np.arange(384, dtype=np.uint16).reshape(16, 24) * 170) if mode == "I;16" else _gradient(mode)
    )
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def _seeds():
    turned = Image.Exif()
    turned[0x112] = 6
    modes = {
        "JPEG": ["RGB", "L", "CMYK"],
        "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
        "BMP": ["RGB", "P"],
        "GIF": ["P"],
        "WEBP": ["RGB", "RGBA"],
        "PPM": ["RGB", "L", "I;16"],
        "TIFF": ["RGB", "RGBA", "CMYK", "I;16", "LAB"],
    }
    files = {f"{form} {mode}": _saved(form, mode) for form in modes for mode in modes[form]}
    files["JPEG turned"] = _saved("JPEG", "RGB", exif=turned)
    files["JPEG progressive"] = _saved("JPEG", "RGB", progressive=True)
    files["PNG turned"] = _saved("PNG", "RGBA", exif=turned)
    files["TIFF packed"] = _saved("TIFF", "RGB", compression="tiff_lzw")
    files["MPO"] = _saved("MPO", "RGB", save_all=True, append_images=[_gradient("RGB").resize((8, 8))])
    files["GIF animated"] = _saved("GIF", "P", save_all=True, append_images=[_gradient("L")])
    if "AVIF" in Image.SAVE:
        files["AVIF"] = _saved("AVIF", "RGB")
    return files


def _with_pillow(data):
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.int64)
        return Image.fromarray((values // 257).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture.convert("RGB")


_FILES = _seeds()


def _read(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "picture"
    path.write_bytes(data)
    picture = outcome(load_picture, path)
    if picture is not None:
        assert picture.mode == "RGB"
        difference = np.abs(np.asarray(picture, np.int16) - np.asarray(_with_pillow(data), np.int16))
        assert difference.max() <= 1
    return picture


@pytest.mark.parametrize("name", _FILES)
def test_a_whole_picture(tmp_path_factory, name):
    assert (_read(tmp_path_factory, _FILES[name]) is None) == (name == "GIF animated")


@tries(1000)
@given(damaged(_FILES))
def test_a_damaged_picture(tmp_path_factory, found):
    _read(tmp_path_factory, found[1])
