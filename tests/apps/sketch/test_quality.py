"""Measures of drawings with known coverage and stroke width; averages of an identity; contact sheets."""

import numpy as np
import pytest
from apps.sketch.photo_factory import person, photo_folder
from PIL import Image
from scipy.stats import wasserstein_distance

from ms_unireid.apps.sketch.build import build_sketches, merge_sketches
from ms_unireid.apps.sketch.contact_sheet import draw_contact_sheet
from ms_unireid.apps.sketch.quality import measure, stroke_widths, summarize
from ms_unireid.apps.sketch.recipe import make_recipe
from ms_unireid.errors import DataError

NAMES = [f"cam/{i}.png" for i in range(6)]


def bars(width: int, step: int = 16) -> np.ndarray:
    sheet = np.full((384, 128), 255, np.uint8)
    for left in range(4, 128 - width, step):
        sheet[:, left : left + width] = 0
    return sheet


@pytest.mark.parametrize("width", [1, 3, 5, 9])
def test_width_and_coverage_of_bars(width):
    found = measure(bars(width))
    assert np.median(found.widths) == width
    assert found.coverage == pytest.approx(100 * (bars(width) == 0).mean())
    assert found.outside is None


def test_ink_outside_the_mask_is_counted():
    mask = np.zeros((384, 128), np.float32)
    mask[:, :64] = 1
    sheet = np.full((384, 128), 255, np.uint8)
    sheet[:, 20:24] = sheet[:, 100:104] = 0
    assert measure(sheet, mask).outside == pytest.approx(50)
    assert measure(sheet, np.ones((10, 10), np.float32)).outside == 0


def test_a_blank_sheet_has_no_strokes():
    blank = measure(np.full((50, 20), 255, np.uint8))
    assert blank.coverage == 0 and len(blank.widths) == 0
    assert summarize({"a": blank})["nearly_blank"] == ["a"]
    assert len(stroke_widths(np.ones((8, 8), bool))) > 0


def test_distances_are_wasserstein():
    ours = {str(w): measure(bars(w)) for w in (1, 3)}
    theirs = [measure(bars(w)) for w in (5, 9)]
    found = summarize(ours, theirs)["reference"]
    coverage = [m.coverage for m in ours.values()], [m.coverage for m in theirs]
    assert found["coverage_distance"] == pytest.approx(wasserstein_distance(*coverage), abs=1e-3)
    assert found["stroke_width_distance"] == pytest.approx(((5 - 1) + (9 - 3)) / 2, abs=0.5)
    assert summarize(ours, list(ours.values()))["reference"]["stroke_width_distance"] == 0


@pytest.fixture
def drawn(tmp_path):
    photos = photo_folder(tmp_path)
    build_sketches(photos, NAMES, tmp_path / "sketches", make_recipe("none", "lines"))
    return tmp_path


def test_merging_averages_each_identity(drawn):
    identities = {name: i // 3 for i, name in enumerate(NAMES)}
    assert merge_sketches(drawn / "sketches", identities, drawn / "merged") == 2
    stack = np.stack([np.asarray(Image.open(drawn / "sketches" / name), float) for name in NAMES])
    for i, name in enumerate(NAMES):
        merged = np.asarray(Image.open(drawn / "merged" / name), float)
        assert np.abs(merged - stack[3 * (i // 3) : 3 * (i // 3) + 3].mean(axis=0)).max() <= 0.5


def test_merging_refuses_folders_it_cannot_use(drawn):
    with pytest.raises(DataError, match="merge into another one"):
        merge_sketches(drawn / "sketches", {NAMES[0]: 1}, drawn / "sketches")
    with pytest.raises(DataError, match="draw the sketches first"):
        merge_sketches(drawn / "photos", {NAMES[0]: 1}, drawn / "merged")


def test_the_seed_picks_the_photos_of_a_contact_sheet(drawn):
    recipe = make_recipe("none", "pencil", variations=2)
    (drawn / "photos" / "cam" / "2.png").write_bytes(b"junk")
    failures = draw_contact_sheet(drawn / "photos", NAMES, recipe, drawn / "sheet.png")
    assert list(failures) == ["cam/2.png"]
    sheet = np.asarray(Image.open(drawn / "sheet.png"))
    assert sheet.shape == (4 * 390 + 16, 6 * 134, 3)
    photo = sheet[:384, :128].astype(int)
    assert np.abs(photo - np.asarray(person((60, 160)).resize((128, 384), Image.Resampling.BICUBIC))).mean() < 3
    first = (drawn / "sheet.png").read_bytes()
    draw_contact_sheet(drawn / "photos", NAMES, recipe, drawn / "sheet.png")
    assert (drawn / "sheet.png").read_bytes() == first
