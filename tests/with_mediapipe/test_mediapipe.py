"""The default background, in the environment that has MediaPipe: `make test-sketch`. Skipped where it is missing."""

import json
from pathlib import Path

import numpy as np
import pytest
from apps.sketch.photo_factory import contents, person
from PIL import Image
from tool_runner import run_tool

from ms_unireid.apps.sketch.background import MediaPipe
from ms_unireid.apps.sketch.pictures import read_photo
from ms_unireid.apps.sketch.quality import BLANK_BELOW, FULL_ABOVE, measure

pytest.importorskip("mediapipe")
TOOL = "build_sketches.py"


@pytest.fixture(scope="module")
def masker():
    return MediaPipe().load()


def some_real(real_root: Path, count: int) -> list[Path]:
    photos = sorted((real_root / "CUHK-PEDES" / "imgs" / "CUHK01").iterdir())
    return photos[:: len(photos) // count][:count]


def test_masks_are_the_same_in_any_order(masker):
    photos = [np.asarray(person(size)) for size in ((60, 160), (13, 34), (300, 800))]
    first = [masker(photo, "a") for photo in photos]
    again = [masker(photo, "a") for photo in reversed(photos)][::-1]
    for photo, one, two in zip(photos, first, again, strict=True):
        assert one.shape == photo.shape[:2] and (one == two).all() and 0 <= one.min() <= one.max() <= 1


def test_real_people_are_found_whole(real_root, masker):
    """Head, trunk and legs are at their usual place in a pedestrian photo; the upper corners are background."""
    masks = [
        np.asarray(Image.fromarray(masker(read_photo(p), p.name)).resize((30, 80))) for p in some_real(real_root, 24)
    ]
    mean = np.mean(masks, axis=0)
    assert min(mean[6:12, 12:18].mean(), mean[25:45, 11:19].mean(), mean[50:65, 10:20].mean()) > 0.75
    assert max(mean[:6, :4].mean(), mean[:6, -4:].mean()) < 0.35


def test_refinement_keeps_certain_pixels(real_root, masker):
    refined = MediaPipe(refine=True).load()
    for path in some_real(real_root, 3):
        photo = read_photo(path)
        plain, sharp = masker(photo, path.name), refined(photo, path.name)
        assert (sharp[plain == 1] == 1).all() and (sharp <= plain).all() and sharp.sum() < plain.sum()


@pytest.mark.parametrize("style", ["pencil", "lines"])
def test_real_photos_get_sketches_that_are_neither_blank_nor_blots(real_root, tmp_path, style):
    (tmp_path / "photos").mkdir()
    for path in some_real(real_root, 10):
        (tmp_path / "photos" / path.name).symlink_to(path)
    folders = [tmp_path / f"sketches{workers}" for workers in (1, 2)]
    for workers, folder in enumerate(folders, 1):
        done = run_tool(
            TOOL, "--photos", tmp_path / "photos", "--output", folder, "--style", style, "--workers", workers
        )
        assert done.returncode == 0, done.stderr
        assert "XNNPACK" not in done.stderr  # the progress bar alone
    assert contents(folders[0]) == contents(folders[1])
    sketches = list(folders[0].glob("*.png"))
    assert len(sketches) == 10
    assert all(BLANK_BELOW < measure(np.asarray(Image.open(sketch))).coverage < FULL_ABOVE for sketch in sketches)
    done = run_tool(TOOL, "--photos", tmp_path / "photos", "--output", folders[0], "--evaluate")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outside_mask_percent"]["max"] < 5
