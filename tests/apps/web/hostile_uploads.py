"""Uploads for tests: ordinary pictures, and those that must be refused."""

import io
import struct
import zlib

from PIL import Image, ImageDraw


def encoded(picture: Image.Image, format: str, **options: object) -> bytes:
    """Return a picture as a file of a format."""
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def still(format: str = "PNG", size: tuple[int, int] = (40, 120), mode: str = "RGB") -> bytes:
    """Return an ordinary picture."""
    return encoded(Image.new(mode, size, "white"), format)


def sketched() -> bytes:
    """Return a sketch of lines on white that fills its sheet."""
    sheet = Image.new("RGB", (128, 384), "white")
    ImageDraw.Draw(sheet).line([(20, 370), (64, 20), (108, 370), (30, 200), (98, 200)], "black", 4)
    return encoded(sheet, "PNG")


def animated(format: str) -> bytes:
    """Return a picture of two frames."""
    frames = [Image.new("RGB", (20, 60), colour) for colour in ("red", "blue")]
    return encoded(frames[0], format, save_all=True, append_images=frames[1:])


def bomb(width: int, height: int) -> bytes:
    """Return a small PNG with very many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compressobj(9)
    line = bytes(1 + (width + 7) // 8)
    pixels = b"".join(rows.compress(line) for _ in range(min(height, 2000))) + rows.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


HOSTILE = {
    "empty": (b"", "empty"),
    "text": (b"<script>alert(1)</script>" * 9, "not a picture"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "not a picture"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    "truncated.png": (encoded(Image.effect_noise((60, 180), 90), "PNG")[:-4000], "truncated or damaged"),
    "truncated.jpg": (encoded(Image.effect_noise((60, 180), 90), "JPEG")[:-1500], "truncated or damaged"),
    "head.png": (still()[:30], "not a picture"),
    "animated.gif": (animated("GIF"), "animated"),
    "animated.webp": (animated("WEBP"), "animated"),
    "animated.png": (animated("PNG"), "animated"),
    "pages.tiff": (animated("TIFF"), "several pages"),
    "bomb.png": (bomb(60_000, 60_000), "more pixels than Pillow opens, expected at most 50,331,648"),
    "wide.png": (bomb(50_331_649, 1), "pixels, expected at most"),
}
