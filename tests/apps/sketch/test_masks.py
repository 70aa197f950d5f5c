"""Masks: which pixels are kept, the white background, ready masks, and missing packages."""

import sys

import numpy as np
import pytest
from apps.sketch.photo_factory import person, person_mask
from PIL import Image

from ms_unireid.apps.sketch.artist import KEPT_WHOLE, Artist
from ms_unireid.apps.sketch.background import BACKGROUNDS, MaskFolder, MediaPipe, Rembg
from ms_unireid.apps.sketch.pictures import opacity, put_on_white
from ms_unireid.apps.sketch.recipe import make_recipe
from ms_unireid.errors import ConfigError, DataError, EnvironmentProblem


def body() -> np.ndarray:
    probability = np.zeros((100, 60), np.float32)
    probability[20:90, 20:40] = 0.9
    return probability


def test_an_uncertain_limb_of_a_certain_body_is_kept():
    probability = body()
    probability[40:50, 40:55] = 0.25
    kept = opacity(probability, 0.1, 0.4)
    assert (kept[40:50, 40:55] == pytest.approx(0.5)) and (kept[20:90, 20:40] == 1).all()


def test_uncertain_islands_and_specks_are_dropped():
    probability = body()
    probability[5:15, 45:58] = 0.3  # large, unsure
    probability[95, 5] = 1.0  # sure, a speck
    kept = opacity(probability, 0.1, 0.4)
    assert not kept[:16].any() and not kept[95].any() and kept.sum() == 70 * 20


def test_background_becomes_white_and_the_person_stays():
    photo = np.asarray(person())
    mask = np.asarray(person_mask(), np.float32) / 255
    cut = put_on_white(photo, mask)
    assert (cut[mask == 0] == 255).all() and (cut[mask == 1] == photo[mask == 1]).all()


def test_an_empty_mask_keeps_the_whole_photo_and_leaves_a_note(tmp_path):
    for folder, picture in (("photos", person()), ("masks", Image.new("L", (60, 160)))):
        (tmp_path / folder).mkdir()
        picture.save(tmp_path / folder / "a.png")
    artist = Artist(make_recipe("mask", background_options=[f"folder={tmp_path / 'masks'}"]))
    cut = artist.cut_out(tmp_path / "photos" / "a.png", "a.png")
    assert cut.note == KEPT_WHOLE and (cut.mask == 1).all()


def test_masks_of_a_folder_are_found_under_the_photos_name_or_as_png(tmp_path):
    person_mask((30, 80)).save(tmp_path / "a.png")
    mask = MaskFolder(str(tmp_path)).load()
    photo = np.asarray(person())
    for name in ("a.png", "a.jpg"):
        assert mask(photo, name).shape == (160, 60) and 0.2 < mask(photo, name).mean() < 0.6
    with pytest.raises(DataError, match=r"b\.jpg: the mask of b\.jpg is missing"):
        mask(photo, "b.jpg")
    with pytest.raises(ConfigError, match="folder=DIR"):
        MaskFolder("").load()


@pytest.mark.parametrize(("name", "module"), [("mediapipe", "mediapipe"), ("rembg", "rembg"), ("onnx", "onnxruntime")])
def test_a_missing_package_is_named_with_how_to_install_it(monkeypatch, tmp_path, name, module):
    monkeypatch.setitem(sys.modules, module, None)  # import raises ModuleNotFoundError
    method = BACKGROUNDS[name]
    with pytest.raises(EnvironmentProblem, match=rf"needs the package {module}, .*pip install"):
        method.load()


def test_rembg_gives_only_the_mask(monkeypatch):
    """Uses a stand-in with rembg's interface, because the tests do not download its weights."""

    class Module:
        @staticmethod
        def new_session(model):
            if model == "no-such":
                raise ValueError("No session class found")
            return model

        @staticmethod
        def remove(data, session, only_mask):
            assert data.shape == (160, 60, 3) and only_mask and session == "u2net_human_seg"
            return np.asarray(person_mask())

    monkeypatch.setitem(sys.modules, "rembg", Module)
    mask = Rembg().load()(np.asarray(person()), "a.png")
    assert mask.shape == (160, 60) and 0.2 < mask.mean() < 0.6
    with pytest.raises(EnvironmentProblem, match="cannot open 'no-such'"):
        Rembg("no-such").load()


def test_views_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="views=9: expected 1 to 4"):
        MediaPipe(views=9).load()
