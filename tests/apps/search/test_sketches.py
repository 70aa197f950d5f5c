"""Sketches of queries: what is put right, and what stays as it is."""

import numpy as np
import pytest
from apps.search.index_factory import put_photo
from PIL import Image, ImageDraw, ImageOps

from ms_unireid.apps.search.sketches import prepare_sketch
from ms_unireid.errors import QueryError

SIZE = (384, 128)
RNG = np.random.default_rng(1)


def person(height: int = 384) -> Image.Image:
    """Draw a person with a filled coat, black on white, on a sheet three times as high as wide."""
    sheet = Image.new("RGB", (128, 384), "white")
    pen = ImageDraw.Draw(sheet)
    pen.ellipse((46, 14, 82, 60), outline="black", width=4)
    pen.polygon([(40, 64), (88, 64), (104, 220), (24, 220)], fill=(90, 90, 90), outline="black", width=4)
    pen.line([(50, 220), (44, 368), (28, 370)], fill="black", width=5)
    pen.line([(78, 220), (84, 368), (100, 370)], fill="black", width=5)
    return sheet.resize((height // 3, height), Image.Resampling.LANCZOS)


def on_page(height: int = 220) -> Image.Image:
    page = Image.new("RGB", (900, 600), "white")
    page.paste(person(height), (520, 180))
    return page


def colour_scan(sketch: Image.Image) -> Image.Image:
    """Draw it with blue ink on yellow paper, in a shadow, with noise."""
    light = np.asarray(sketch.convert("L"), float)[..., None] / 255
    shadow = np.linspace(1, 0.65, sketch.width)[None, :, None]
    pixels = (light * (244, 226, 178) + (1 - light) * (40, 50, 140)) * shadow + RNG.normal(0, 3, light.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def framed(sheet: Image.Image) -> Image.Image:
    ImageDraw.Draw(sheet).rectangle((20, 20, sheet.width - 20, sheet.height - 20), outline="black", width=4)
    return sheet


def noise(level: float, spread: float) -> Image.Image:
    return Image.fromarray(RNG.normal(level, spread, (400, 300, 3)).clip(0, 255).astype(np.uint8))


def difference(one: Image.Image, other: Image.Image) -> float:
    """Return the mean difference of two sketches at the size of the model's input, 0 to 255."""
    pixels = [np.asarray(picture.convert("L").resize((128, 384)), float) for picture in (one, other)]
    return float(np.abs(pixels[0] - pixels[1]).mean())


@pytest.mark.parametrize("size", [(64, 192), (128, 384), (245, 768), (300, 600)])
def test_a_sketch_like_those_of_training_is_returned_itself(size):
    given = person().resize(size)
    assert prepare_sketch(given, SIZE) == (given, [])
    assert prepare_sketch(given, SIZE)[0] is given


def test_white_on_black_is_inverted_exactly():
    made, notes = prepare_sketch(ImageOps.invert(person()), SIZE)
    assert notes == ["light lines on a dark ground were inverted"]
    np.testing.assert_array_equal(np.asarray(made), np.asarray(person()))


def test_a_coloured_scan_becomes_dark_on_white():
    scan = colour_scan(person())
    made, notes = prepare_sketch(scan, SIZE)
    assert len(notes) == 1 and "grey on white" in notes[0]
    assert difference(made, person()) < 8 < 50 < difference(scan, person())
    assert np.ptp(np.asarray(made), axis=2).max() == 0


@pytest.mark.parametrize("page", [on_page(), on_page(90), framed(on_page()), colour_scan(framed(on_page()))])
def test_a_small_drawing_on_a_landscape_page_keeps_its_proportions(page):
    made, notes = prepare_sketch(page, SIZE)
    assert "enlarged" in notes[-1] and made.height == pytest.approx(3 * made.width, abs=3)
    filled = ImageOps.invert(made.convert("L")).point(lambda level: 255 * (level > 60)).getbbox()
    assert filled[3] - filled[1] == pytest.approx(0.88 * made.height, rel=0.06)
    assert (filled[3] - filled[1]) / (filled[2] - filled[0]) == pytest.approx(358 / 80, rel=0.12)


def test_a_sheet_on_a_dark_table_is_cut_out():
    table = noise(40, 8).resize((1100, 800))
    table.paste(on_page(300), (100, 100))
    made, notes = prepare_sketch(table, SIZE)
    assert "sheet was cut out" in notes[0] and "enlarged" in notes[-1]
    assert made.height == pytest.approx(300 * 358 / 384 / 0.88, rel=0.06)


BLANK = {
    "white": Image.new("RGB", (64, 192), "white"),
    "black": Image.new("RGB", (64, 192)),
    "one pixel": Image.new("RGB", (1, 1)),
    "narrow": Image.new("RGB", (1, 500), "white"),
    "paper": noise(236, 5),
    "board": noise(40, 10),
    "shadow": Image.linear_gradient("L").resize((300, 400)).point(lambda level: 120 + level // 2).convert("RGB"),
    "frame": framed(Image.new("RGB", (800, 600), "white")),
}


@pytest.mark.parametrize("name", BLANK)
def test_a_blank_sheet_is_refused(name):
    with pytest.raises(QueryError, match="nothing is drawn"):
        prepare_sketch(BLANK[name], SIZE)


def test_a_dot_is_no_drawing():
    sheet = Image.new("RGB", (600, 400), "white")
    ImageDraw.Draw(sheet).ellipse((300, 200, 308, 208), fill="black")
    with pytest.raises(QueryError, match="only dots"):
        prepare_sketch(sheet, SIZE)


def test_a_photo_stays_as_it_is(tmp_path):
    photo = Image.open(put_photo(tmp_path / "a.png", (200, 40, 40))).resize((64, 192)).convert("RGB")
    pen = ImageDraw.Draw(photo)
    for number, colour in enumerate(("blue", "green", "yellow", "grey", "white", "black", "orange")):
        pen.rectangle((8, 24 * number, 56, 24 * number + 22), fill=colour)
    made, notes = prepare_sketch(photo, SIZE)
    assert made is photo and len(notes) == 1 and "photo" in notes[0]
