"""Thresholds beside a checkpoint: their growth, what they belong to, and damaged files of them."""

import json
from pathlib import Path

import pytest

from ms_unireid.checkpoints.thresholds import Thresholds, read_thresholds, thresholds_file, write_thresholds
from ms_unireid.errors import UserError

TASKS = {"text": {"threshold": 0.5, "per_doubling": 0.02, "photos": 100, "queries": 80}}
MADE = Thresholds("ab", {"image_size": [32, 16]}, 0.05, "cuhk_pedes", "val", TASKS)


def test_they_are_read_as_they_were_written(tmp_path):
    assert read_thresholds(tmp_path / "m.ckpt") is None
    assert write_thresholds(tmp_path / "m.ckpt", MADE) == tmp_path / "m.ckpt.thresholds.json"
    assert read_thresholds(tmp_path / "m.ckpt") == MADE
    assert read_thresholds(tmp_path / "m.safetensors") is None


def test_a_folder_has_them_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert thresholds_file(Path("clip/")) == tmp_path / "clip.thresholds.json"


def test_a_threshold_rises_with_each_doubling_of_the_photos():
    assert [MADE.threshold("text", count) for count in (100, 200, 800, 50)] == pytest.approx([0.5, 0.52, 0.56, 0.48])
    assert MADE.threshold("sketch", 100) is None and MADE.threshold("text", 0) is None
    assert "a guess" not in MADE.describe("text", 1000) and "a guess for 1,001 photos" in MADE.describe("text", 1001)


def test_they_fit_the_features_of_one_checkpoint_and_its_settings():
    about = {"checkpoint": {"sha256": "ab", "path": "x"}, "model": {"image_size": [32, 16]}}
    assert MADE.fits(about)
    assert not MADE.fits(about | {"checkpoint": {"sha256": "cd"}})
    assert not MADE.fits(about | {"model": {"image_size": [64, 16]}})
    assert MADE.misfit(about | {"model": {"image_size": [64, 16]}}).startswith(
        "the thresholds beside the checkpoint are of"
    )
    split = about | {"model": about["model"] | {"long_captions": "split"}}
    assert not MADE.fits(split) and "(data.long_captions=cut, the index has split); make them again" in MADE.misfit(
        split
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda kept: kept.pop("model"), "content has no 'model'"),
        (lambda kept: kept["tasks"]["text"].update(threshold="high"), "threshold"),
        (lambda kept: kept["tasks"]["text"].update(threshold=float("nan")), "NaN"),
        (lambda kept: kept.update(tasks=[]), "expected a dictionary"),
        (lambda kept: kept["tasks"]["text"].pop("photos"), "has no 'photos'"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, change, problem):
    file = write_thresholds(tmp_path / "m.ckpt", MADE)
    kept = json.loads(file.read_text(encoding="utf-8"))
    change(kept)
    file.write_text(json.dumps(kept), encoding="utf-8")
    with pytest.raises(
        UserError, match=rf"thresholds\.json: is damaged .*{problem}.*--calibrate, or remove it"
    ) as told:
        read_thresholds(tmp_path / "m.ckpt")
    assert "\n" not in str(told.value)


def test_what_a_later_version_adds_is_ignored(tmp_path):
    file = write_thresholds(tmp_path / "m.ckpt", MADE)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"more": 1}), encoding="utf-8")
    assert read_thresholds(tmp_path / "m.ckpt") == MADE
    text, other = MADE.tasks["text"], MADE.tasks["text"] | {"threshold": 0.25}
    tasks = {"pencil+sketch": text, "fusion": text, "sketch+text": other}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tasks": tasks}), encoding="utf-8")
    found = read_thresholds(tmp_path / "m.ckpt")
    assert found.threshold("sketch+pencil", 100) == found.threshold("fusion", 100) == text["threshold"]
    file.write_bytes(b"")
    with pytest.raises(UserError, match="is damaged"):
        read_thresholds(tmp_path / "m.ckpt")
