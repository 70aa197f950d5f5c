"""Reading and checking picture files, healthy and broken."""

import os
import time

import numpy as np
import pytest
from data.tri_factory import put_picture, real_data, touch
from PIL import Image

from ms_unireid.data import pictures as picture_files
from ms_unireid.data.pictures import check_pictures, list_files, load_picture
from ms_unireid.errors import DataError


def noise(path, size=(60, 160), **options):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize("extension", ["jpg", "png", "bmp", "gif", "webp", "tif"])
def test_reads_known_formats(tmp_path, extension):
    picture = load_picture(noise(tmp_path / f"a.{extension}"))
    assert (picture.mode, picture.size) == ("RGB", (60, 160))
    check_pictures([tmp_path / f"a.{extension}"])


@pytest.mark.filterwarnings("ignore:Palette images")
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    Image.new("RGBA", (3, 5), (255, 255, 255, 0)).convert(mode).save(tmp_path / "a.png")
    picture = load_picture(tmp_path / "a.png")
    assert picture.mode == "RGB"
    if mode == "RGBA":  # transparency is dropped, not blended
        assert picture.getpixel((0, 0)) == (255, 255, 255)


def test_extension_does_not_decide(tmp_path):
    assert load_picture(put_picture(tmp_path / "a.jpg.jpg", format="PNG")).size == (4, 8)


def test_picture_is_usable_after_the_file_is_gone(tmp_path):
    picture = load_picture(put_picture(tmp_path / "a.jpg"))
    (tmp_path / "a.jpg").unlink()
    assert picture.getpixel((0, 0))[0] > 150


def spoil(folder, kind):
    path = folder / "bad.png"
    if kind == "missing":
        return path
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("<html>404 not found</html>")
    elif kind == "folder":
        path.mkdir()
    elif kind == "postscript":  # Pillow would start another program for it
        path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    else:
        whole = noise(path, format=kind.split()[-1]).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    return path


BROKEN = {
    "missing": "does not exist",
    "empty": "empty",
    "text": "not a picture",
    "folder": "folder",
    "postscript": "not a picture",
    "half PNG": "truncated",
    "half JPEG": "truncated",
    "half BMP": "truncated",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_are_named_with_the_fix(tmp_path, kind):
    path = spoil(tmp_path, kind)
    with pytest.raises(DataError, match=rf"bad\.png: .*{BROKEN[kind]}.*Fix: copy the file again"):
        load_picture(path)
    with pytest.raises(DataError, match=rf"1 of 1 pictures .*bad\.png: .*{BROKEN[kind]}.*Fix: copy"):
        check_pictures([path])


def test_oversized_pictures_are_refused(tmp_path, monkeypatch):
    path = put_picture(tmp_path / "huge.png", (40, 30), "PNG")
    monkeypatch.setattr(picture_files, "MAX_PIXELS", 1000)
    with pytest.raises(DataError, match=r"huge\.png: 40x30 pixels, expected at most 1,000 in all"):
        load_picture(path)


def test_decompression_bomb_is_refused(tmp_path, monkeypatch):
    path = put_picture(tmp_path / "bomb.png", (40, 30), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"bomb\.png: more pixels than Pillow opens"):
        load_picture(path)


@pytest.mark.parametrize("cut", range(0, 900, 37))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "GIF"])
def test_any_cut_gives_a_picture_or_a_data_error(tmp_path, cut, format):
    path = tmp_path / "cut"
    whole = noise(path, (12, 9), format=format).read_bytes()
    path.write_bytes(whole[: min(cut, len(whole) - 1)])
    try:
        assert load_picture(path).size == (12, 9)
    except DataError as error:
        assert "cut: " in str(error)


def test_padded_jpeg_passes(tmp_path):
    path = noise(tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes() + b"\0" * 20)
    check_pictures([path])


def test_many_bad_files_make_one_error(tmp_path):
    good = [put_picture(tmp_path / f"good{i}.jpg") for i in range(3)]
    bad = [tmp_path / f"bad{i}.jpg" for i in range(7)]
    with pytest.raises(DataError, match=r"^7 of 10 pictures .*bad0.*bad4.*and 2 more\. Fix") as caught:
        check_pictures([*good, *bad, *bad])
    assert "bad5" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_healthy_files_are_checked_fast(tmp_path):
    paths = [tmp_path / f"{i}.jpg" for i in range(1000)]
    noise(paths[0])
    for path in paths[1:]:
        os.link(paths[0], path)
    begin = time.perf_counter()
    check_pictures(paths)
    assert time.perf_counter() - begin < 1.5  # 70,000 in seconds; generous for a busy machine


def test_real_pictures_pass():
    folder = real_data() / "CUHK-PEDES"
    check_pictures(folder / name for name in sorted(list_files(folder)) if name.endswith(".png"))


def test_lists_files_through_links_and_loops(tmp_path):
    touch(tmp_path / "imgs" / "a" / "1.jpg")
    touch(tmp_path / "elsewhere" / "2.JPG")
    (tmp_path / "imgs" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "imgs" / "c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "imgs" / "a" / "loop").symlink_to(tmp_path / "imgs")
    (tmp_path / "imgs" / "gone.jpg").symlink_to(tmp_path / "nothing")
    found = list_files(tmp_path / "imgs")
    assert {"a/1.jpg", "b/2.JPG", "c/2.JPG"} <= found
    assert "gone.jpg" not in found
    assert not any("loop" in name for name in found)


def test_unlistable_folder(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: cannot be listed.*Fix"):
        list_files(tmp_path / "nowhere")
