"""Time and camera of a photo: from its tags and its name, and never an error."""

import datetime
import io
import struct

import pytest
from fuzz.fuzzing import damaged, outcome, tries
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from ms_unireid.apps.search.photo_facts import Facts, photo_facts

TAGS = ExifTags.Base


def photo(form: str = "JPEG", original: object = None, **tags: object) -> io.BytesIO:
    """Write a photo with tags of EXIF's first directory by name, and DateTimeOriginal of its second."""
    exif, file = Image.Exif(), io.BytesIO()
    for name, value in tags.items():
        exif[TAGS[name]] = value
    if original is not None:
        exif.get_ifd(ExifTags.IFD.Exif)[TAGS.DateTimeOriginal] = original
    Image.new("RGB", (8, 16)).save(file, form, exif=exif)
    return file


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "MPO", "AVIF"])
def test_tags_of_every_format(form):
    file = photo(form, "2024:05:01 12:30:15", DateTime="2025:01:01 00:00:00", Make="Maker", Model="Model 3")
    taken = (
        "2025-01-01T00:00:00" if form == "TIFF" else "2024-05-01T12:30:15"
    )  # Pillow writes no second directory there
    assert photo_facts(file, "a.jpg") == Facts(taken, "Maker Model 3")


@pytest.mark.parametrize(
    ("original", "changed", "expected"),
    [
        ("2024:02:29 23:59:59", None, "2024-02-29T23:59:59"),
        ("2023:02:29 23:59:59", "2023:03:01 00:00:00", "2023-03-01T00:00:00"),
        ("0000:00:00 00:00:00", None, None),
        ("    :  :     :  :  ", "2023:03:01 00:00:00", "2023-03-01T00:00:00"),
        ("2024:05:01 24:00:00", None, None),
        ("2024-05-01T12:30:15.25", None, "2024-05-01T12:30:15"),
        ("yesterday", None, None),
        ("", None, None),
    ],
)
def test_only_a_real_date_of_the_tags_counts(original, changed, expected):
    tags = {} if changed is None else {"DateTime": changed}
    assert photo_facts(photo("JPEG", original, **tags), "a.jpg").taken == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("IMG_20240501_123015.jpg", "2024-05-01T12:30:15"),
        ("PXL_20240501_123015123.MP.jpg", "2024-05-01T12:30:15"),
        ("20240501123015.jpg", "2024-05-01T12:30:15"),
        ("2024-05-01 12.30.15.jpg", "2024-05-01T12:30:15"),
        ("2024-05-01T12:30:15Z.jpg", "2024-05-01T12:30:15"),
        ("Screenshot_2024-05-01-12-30-15.png", "2024-05-01T12:30:15"),
        ("signal-2024-05-01-12-30-15-123.jpg", "2024-05-01T12:30:15"),
        ("WhatsApp Image 2024-05-01 at 12.30.15.jpeg", "2024-05-01T12:30:15"),
        ("Screenshot 2024-05-01 at 12.30.15 PM.png", None),  # half past twelve, or half an hour after midnight
        ("20240501_123015/a.jpg", None),  # a folder's name is not the photo's
        ("IMG_20240501.jpg", None),
        ("IMG_20241301_123015.jpg", None),
        ("IMG_20230229_123015.jpg", None),
        ("IMG_20240501_253015.jpg", None),
        ("IMG_19891231_235959.jpg", None),
        ("IMG_21010101_000000.jpg", None),
        ("IMG_19900101_000000.jpg", "1990-01-01T00:00:00"),
        ("IMG_21001231_235959.jpg", "2100-12-31T23:59:59"),
        ("1202405011230150.jpg", None),
        ("202405011230151.jpg", None),
        ("2024-0501_123015.jpg", None),
        ("99999999999999_20240501_123015.jpg", "2024-05-01T12:30:15"),
        ("0002_c1s1_000451_03.jpg", None),
        ("٢٠٢٤٠٥٠١_123015.jpg", None),
    ],
)
def test_a_time_in_the_name(name, expected):
    assert photo_facts(photo(), name).taken == expected
    assert photo_facts(photo("JPEG", "2001:02:03 04:05:06"), name).taken == "2001-02-03T04:05:06"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Market/0002_c1s1_000451_03.jpg", "1"),  # Market-1501
        ("0001_c14_0022.jpg", "14"),  # RSTPReid
        ("0001_c2_f0046182.jpg", "2"),  # DukeMTMC
        ("test/0627/0627_010_05_0303afternoon_1591_0.jpg", "05"),  # ICFG-PEDES
        ("0000_007_02_0303morning_0008_0.jpg", "02"),  # MSMT17
        ("hall_c7_20240501123015.jpg", "7"),
        ("a_c1_c2_b.jpg", None),  # two
        ("a_c1_b_c1_d.jpg", "1"),
        ("CUHK01/0363004.png", None),
        ("c1s1_000451.jpg", None),
        ("a_c1.jpg", None),
        ("a_c12345_b.jpg", None),
        ("a_c3_/b.jpg", None),
        ("0627_010_05_0303evening_1591_0.jpg", None),
    ],
)
def test_a_camera_in_the_name(name, expected):
    assert photo_facts(photo(), name).camera == expected
    assert photo_facts(photo(Make="A", Model="B"), name).camera == (expected or "A B")


@pytest.mark.parametrize(
    ("make", "model", "expected"),
    [
        ("Canon", "Canon EOS 5D", "Canon EOS 5D"),
        ("NIKON CORPORATION", "NIKON D90", "NIKON CORPORATION NIKON D90"),
        ("Maker", None, "Maker"),
        (None, "  Model\n\x00 1\x1b[2J ", "Model 1 [2J"),
        (" ", "\x07", None),
        ("é" * 80, "x" * 80, None),
    ],
)
def test_make_and_model_are_printable_and_short(make, model, expected):
    found = photo_facts(photo(**{k: v for k, v in (("Make", make), ("Model", model)) if v is not None}), "a").camera
    if make and len(make) > 50:
        assert len(found) == 100
    else:
        assert found == expected


def raw(order: str, first: list[tuple], second: list[tuple] = (), at: int | None = None) -> bytes:
    """Write EXIF with a first directory and a second one, of entries (tag, type, count, bytes or number)."""
    start = 8 + 2 + 12 * (len(first) + 1) + 4
    first = [*first, (int(ExifTags.IFD.Exif), 4, 1, start if at is None else at)]
    texts, body = b"", b""
    behind = start + 2 + 12 * len(second) + 4
    for entries in (first, second):
        body += struct.pack(f"{order}H", len(entries))
        for tag, kind, count, value in entries:
            if isinstance(value, bytes):
                value, texts = behind + len(texts), texts + value
            body += struct.pack(f"{order}HHLL", tag, kind, count, value)
        body += bytes(4)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}L", 8)
    return b"Exif\0\0" + head + body + texts


def facts_of(exif: bytes) -> Facts:
    file = io.BytesIO()
    Image.new("RGB", (8, 16)).save(file, "JPEG", exif=exif)
    return photo_facts(file, "a.jpg")


TIME = b"2024:05:01 12:30:15\0"


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_and_directories_that_lead_nowhere(order):
    changed, original = (0x132, 2, 20, b"2025" + TIME[4:]), (0x9003, 2, 20, TIME)
    assert facts_of(raw(order, [changed], [original])).taken == "2024-05-01T12:30:15"
    for at in (0, 8, 1 << 20, (1 << 32) - 1):  # not a directory, itself, behind the end
        assert facts_of(raw(order, [changed], [original], at)).taken == "2025-05-01T12:30:15"
    assert facts_of(raw(order, [(0x132, 2, 1 << 31, TIME)])).taken == "2024-05-01T12:30:15"


@pytest.mark.parametrize("kind", [1, 3, 4, 5, 7, 12, 99])
def test_tags_of_another_type_are_none(kind):
    assert facts_of(raw("<", [(tag, kind, 1 << 31, TIME) for tag in (0x10F, 0x110, 0x132)])) == Facts()


def test_a_file_that_cannot_be_read_has_the_facts_of_its_name(tmp_path):
    (tmp_path / "no.jpg").write_text("no picture")
    for path in (tmp_path / "no.jpg", tmp_path / "absent.jpg", tmp_path):
        assert photo_facts(path, "0001_c2_20240501123015.jpg") == Facts("2024-05-01T12:30:15", "2")


@tries(400)
@given(
    damaged(
        {form: photo(form, "2024:05:01 12:30:15", Make="M", Model="N").getvalue() for form in ("JPEG", "PNG", "TIFF")}
    ),
    st.text(max_size=40),
)
def test_damaged_tags_and_any_name_are_harmless(found, name):
    facts = outcome(photo_facts, io.BytesIO(found[1]), name)
    if facts.taken is not None:
        assert datetime.datetime.fromisoformat(facts.taken).isoformat() == facts.taken
    if facts.camera is not None:
        assert facts.camera.isprintable() and 0 < len(facts.camera) <= 100
