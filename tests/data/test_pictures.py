"""Reading and checking picture files, healthy and broken."""

import io
import os
import socket
import struct
import sys
import zlib

import numpy as np
import pytest
from data.tri_factory import put_picture, real_data, touch
from PIL import Image, ImageOps

from ms_unireid.data import pictures as picture_files
from ms_unireid.data.pictures import check_pictures, decode_picture, list_files, load_picture, to_rgb
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


FORMATS = ["JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM", "TIFF", "AVIF", "MPO"]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK"])
def test_plain_pictures_have_the_pixels_of_the_authors_reader(tmp_path, format, mode):
    picture = Image.open(noise(tmp_path / "noise.png")).convert(mode)
    try:
        picture.save(tmp_path / "a", format)
    except (OSError, ValueError):
        pytest.skip(f"Pillow writes no {format} of mode {mode}")
    with Image.open(tmp_path / "a") as plain:
        np.testing.assert_array_equal(load_picture(tmp_path / "a"), plain.convert("RGB"))


def test_real_pictures_have_the_pixels_of_the_authors_reader():
    paths = [path for path in sorted(real_data().rglob("*")) if path.suffix in (".jpg", ".png")]
    for path in paths[:: max(1, len(paths) // 50)]:
        with Image.open(path) as plain:
            np.testing.assert_array_equal(load_picture(path), plain.convert("RGB"))


def gradient(mode):
    """Return a picture of 16x8 pixels: from black to white to the right, and from clear to opaque downwards."""
    grey = np.tile(np.arange(16, dtype=np.uint8) * 17, (8, 1))
    if mode.startswith("I;16"):
        return Image.frombytes(
            mode, (16, 8), (grey.astype(np.uint16) * 257).astype(">u2" if mode == "I;16B" else "<u2")
        )
    if mode == "I":
        return Image.fromarray(grey.astype(np.int32) * 257)
    grey = Image.fromarray(grey)
    if mode in ("LA", "La", "PA", "RGBA", "RGBa", "P"):
        clear = Image.merge("LA", (grey, Image.fromarray(np.repeat(np.arange(8, dtype=np.uint8)[:, None] * 36, 16, 1))))
        if mode[0] == "P":
            return clear.convert("RGBA").quantize(256).convert(mode)
        return clear.convert("RGBA").convert(mode) if mode[0] == "R" else clear.convert(mode)
    return grey.convert("RGB").convert(mode)


@pytest.mark.parametrize("mode", ["L", "LA", "La", "P", "PA", "I;16", "I;16B", "I;16L", "I;16N", "I", "RGB", "RGBA",
                                  "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"])  # fmt: skip
@pytest.mark.parametrize("format", [None, "PNG", "TIFF", "PPM"])
def test_every_mode_is_scaled_to_eight_bits_on_white(tmp_path, mode, format):
    picture = gradient(mode)
    if format:
        try:
            picture.save(tmp_path / "a", format)
        except OSError:
            pytest.skip(f"Pillow writes no {format} of mode {mode}")
        if (mode, format) in (("P", "TIFF"), ("RGBA", "PPM")):
            pytest.skip("they are written without transparency")
        found = load_picture(tmp_path / "a")
    else:
        found = to_rgb(picture)
    alpha = np.arange(8)[:, None] * 36 / 255 if mode in ("LA", "La", "P", "PA", "RGBA", "RGBa") else 1
    expected = np.broadcast_to(255 + alpha * (np.arange(16) * 17 - 255), (8, 16))
    assert found.mode == "RGB" and np.abs(np.asarray(found, float) - expected[..., None]).max() < 9
    np.testing.assert_array_equal(to_rgb(found), found)


def test_transparency_is_blended_as_pillow_does():
    value, alpha = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    picture = Image.fromarray(np.stack([value, value[::-1], 255 - value, alpha], -1))
    expected = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    np.testing.assert_array_equal(to_rgb(picture), expected)


def png(depth, colour, row, transparent=b""):
    """Return a PNG of two pixels, with a transparent colour if given."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, depth, colour, 0, 0, 0))
    clear = chunk(b"tRNS", transparent) if transparent else b""
    return b"\x89PNG\r\n\x1a\n" + head + clear + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")


def tiff(bits, data, zero_is_black, order="<"):
    """Return a grey TIFF of two pixels."""
    tags = {256: 2, 257: 1, 258: bits, 259: 1, 262: int(zero_is_black), 273: 122, 277: 1, 278: 1, 279: len(data)}
    entries = b"".join(struct.pack(f"{order}HHII", key, 4, 1, value) for key, value in tags.items())
    head = struct.pack(f"{order}HIH", 42, 8, len(tags))
    return (b"II" if order == "<" else b"MM") + head + entries + struct.pack("<I", 0) + data


# What two grey pixels become.
SCALED = {
    "PGM of 65535": (b"P5 2 1 65535\n\x80\0\x40\0", [128, 64]),
    "PGM of 1023": (b"P5 2 1 1023\n\x03\xff\x01\0", [255, 64]),
    "PGM of 100": (b"P5 2 1 100\n\x64\x32", [255, 128]),
    "dark PGM of 65535": (b"P2 2 1 65535\n255 0\n", [0, 0]),
    "PNG of 2 bits, a grey clear": (png(2, 0, b"\x10", b"\0\1"), [0, 255]),
    "PNG of 4 bits, a grey clear": (png(4, 0, b"\x12", b"\0\2"), [17, 255]),
    "PNG of 8 bits, a grey clear": (png(8, 0, b"\1\2", b"\0\2"), [1, 255]),
    "PNG of 16 bits, a grey clear": (png(16, 0, b"\x10\0\x20\1", b"\x20\1"), [16, 255]),
    "PNG of 16 bits, a colour clear": (png(16, 2, b"\x10\0" * 3 + b"\x20\1" * 3, b"\x20\1" * 3), [16, 255]),
    "PNG of 16 bits with opacity": (png(16, 4, b"\x10\0\xff\xff\x10\0\0\0"), [16, 255]),
    "TIFF of 12 bits": (tiff(12, b"\xff\xf8\x00", True), [255, 128]),
    "TIFF of 16 bits": (tiff(16, b"\0\0\0\xff", True), [0, 255]),
    "TIFF of 16 bits, the other byte order": (tiff(16, b"\0\0\xff\0", True, ">"), [0, 255]),
    "TIFF of 16 bits, zero is white": (tiff(16, b"\0\0\xff\xff", False), [255, 0]),
    "TIFF of 32 bits, 16 in use": (tiff(32, struct.pack("<II", 0, 65535), True), [0, 255]),
    "TIFF of 32 bits, 8 in use": (tiff(32, struct.pack("<II", 0, 200), True), [0, 200]),
}


@pytest.mark.parametrize("name", SCALED)
def test_ranges_are_scaled_never_clipped(name):
    data, expected = SCALED[name]
    assert np.asarray(decode_picture(io.BytesIO(data)))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF", "MPO"])
@pytest.mark.parametrize("orientation", [0, *range(1, 10)])
def test_pictures_are_upright(tmp_path, format, orientation):
    noise(tmp_path / "a", format=format, exif=with_orientation(orientation))
    with Image.open(tmp_path / "a") as picture:
        expected = ImageOps.exif_transpose(picture).convert("RGB")
    found = load_picture(tmp_path / "a")
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(to_rgb(found), found)


def with_orientation(number):
    tags = Image.Exif()
    tags[0x0112] = number
    return tags


@pytest.mark.parametrize("tags", [b"", b"garbage", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff\1\x12\0\5"])
def test_damaged_tags_do_not_harm_the_pixels(tmp_path, tags):
    noise(tmp_path / "a", format="JPEG", exif=b"Exif\0\0" + tags)
    assert load_picture(tmp_path / "a").size == (60, 160)


def test_the_orientation_in_xmp(tmp_path):
    noise(tmp_path / "a", format="JPEG", xmp=b'<x tiff:Orientation="6"/>')
    assert load_picture(tmp_path / "a").size == (160, 60)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize("side", [40, 1000])
def test_a_reduced_picture(tmp_path, format, side):
    noise(tmp_path / "a", format=format, exif=with_orientation(6))
    assert load_picture(tmp_path / "a", side).size == ((40, 15) if side == 40 else (160, 60))


def test_heic_needs_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99))
    with pytest.raises(DataError, match=r"a\.heic: a HEIC picture; reading it needs: pip install .*heic"):
        load_picture(tmp_path / "a.heic")


def test_heic_is_read_upright(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    lying = Image.linear_gradient("L").resize((96, 64)).convert("RGB")
    heif.from_pillow(lying).save(tmp_path / "a.heic", exif=with_orientation(6).tobytes(), quality=-1, chroma=444)
    found = load_picture(tmp_path / "a.heic")
    expected = np.asarray(lying.transpose(Image.Transpose.ROTATE_270), int)
    assert found.mode == "RGB" and np.abs(np.asarray(found, int) - expected).max() < 4


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


def moving(format, mode="RGB"):
    file, frames = io.BytesIO(), [Image.new(mode, (5, 5), colour) for colour in ("red", "blue")]
    frames[0].save(file, format, save_all=True, append_images=frames[1:])
    return file.getvalue()


def floating(format):
    file = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.float32)).save(file, format)
    return file.getvalue()


def head(width, height):
    """Return a PNG with this size and hardly any pixels."""
    data = struct.pack(">II", width, height)
    whole = png(8, 0, b"\1\2")
    return whole[:16] + data + whole[24:29] + struct.pack(">I", zlib.crc32(b"IHDR" + data + whole[24:29])) + whole[33:]


REFUSED = {
    "GIF": (moving("GIF"), "is animated"),
    "WEBP": (moving("WEBP"), "is animated"),
    "PNG": (moving("PNG"), "is animated"),
    "AVIF": (moving("AVIF"), "is animated"),
    "pages": (moving("TIFF"), "has several pages"),
    "floating TIFF": (floating("TIFF"), "floating-point numbers"),
    "floating PFM": (floating("PPM"), "floating-point numbers"),
    "32 bits": (tiff(32, struct.pack("<II", 0, 70000), True), "whole numbers from 0 to 70000, expected 8 or 16 bits"),
    "column": (head(1, 50_000_000), "1x50000000 pixels, expected at most 50,331,648 in all and 65,535 a side"),
    "row": (head(65_536, 1), "65536x1 pixels"),
    "many pixels": (head(9000, 9000), "9000x9000 pixels"),
    "bomb": (head(60_000, 60_000), "more pixels than Pillow opens"),
    "no pixels": (head(0, 5), "not a picture"),
    "slow PPM": (b"P3 2000 2000 255\n", "2000x2000 pixels, expected at most 1,000,000.* for a PPM in text"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_pictures_that_mean_no_single_picture_or_no_known_range_are_refused(tmp_path, name):
    data, reason = REFUSED[name]
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(DataError, match=rf"a: .*{reason}.*Fix: ") as caught:
        load_picture(tmp_path / "a")
    assert "\n" not in str(caught.value)


def test_a_phone_photo_with_previews_is_its_first_picture(tmp_path):
    (tmp_path / "a.jpg").write_bytes(moving("MPO"))
    assert load_picture(tmp_path / "a.jpg").getpixel((0, 0)) == pytest.approx((255, 0, 0), abs=9)


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(tmp_path / "socket"))
        for path in (tmp_path / "pipe", tmp_path / "socket", "/dev/zero"):
            with pytest.raises(DataError, match=r"cannot be opened \("):
                load_picture(path)
            with pytest.raises(DataError, match="cannot be opened"):
                check_pictures([path])


def test_a_photo_of_50_megapixels_is_opened():
    with picture_files.opened_file(io.BytesIO(head(8192, 6144))) as picture:
        assert picture.size == (8192, 6144)


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


def test_healthy_files_are_checked_without_decoding(tmp_path, monkeypatch):
    decoded = []
    monkeypatch.setattr(picture_files, "decode_picture", decoded.append)
    check_pictures([put_picture(tmp_path / "0.jpg"), put_picture(tmp_path / "1.png")])
    assert not decoded


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
