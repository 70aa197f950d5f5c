"""Learning curves: odd logs, thinning, and the picture on disk."""

import json
import math
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tool_runner import ROOT

from ms_unireid.errors import UserError
from ms_unireid.training.curves import COLORS, POINTS, draw_curves, thin


def step_entry(step: int, **values: float | None) -> dict:
    return {"kind": "step", "epoch": 1, "step": step, "learning_rate": 1e-5, "loss": 3.0 / step, **values}


def evaluation_entry(epoch: int, splits: tuple[str, ...] = ("val", "test")) -> dict:
    rows = [{"task": task, "protocol": "exclude_source_photo", "R1": 40.0 + epoch} for task in COLORS]
    return {"kind": "evaluation", "step": epoch, "epoch": epoch, "splits": dict.fromkeys(splits, rows)}


def drawn(folder: Path, entries: list[dict], tail: str = "") -> np.ndarray:
    """Draw a log and return the pixels; a warning is an error."""
    log_file = folder / "run" / "log.jsonl"
    log_file.parent.mkdir(exist_ok=True)
    log_file.write_text("".join(json.dumps(entry) + "\n" for entry in entries) + tail, encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("error", RuntimeWarning)
        draw_curves(log_file, log_file.parent / "curves.png")
    assert sorted(p.name for p in log_file.parent.iterdir()) == ["curves.png", "log.jsonl"]
    with Image.open(log_file.parent / "curves.png") as picture:
        return np.asarray(picture.convert("RGB"))


def has_color(pixels: np.ndarray, color: str) -> bool:
    wanted = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    return bool((pixels == wanted).all(-1).sum() > 20)


def test_a_whole_log_is_1600_pixels_wide_with_every_task(tmp_path):
    parts = {f"{name}_{task}": 0.5 for name in ("loss", "weight", "confidence") for task in ("text", "sketch")}
    health = {"temperature": 0.07, "gradient_norm": 2.0, "loss_scale": 65536.0, "pairs_per_second": 9.0}
    steps = [step_entry(s, **parts, **health, loss_fusion=0.2, interaction=0.1) for s in range(1, 10)]
    pixels = drawn(tmp_path, [*steps, evaluation_entry(1), evaluation_entry(2, ("train", "val", "test"))])
    assert pixels.shape[1] == 1600
    assert all(has_color(pixels, color) for color in COLORS.values())


def test_a_text_only_run_draws_no_sketch_or_fusion_loss(tmp_path):
    pixels = drawn(tmp_path, [step_entry(s, loss_text=2.0 / s, temperature=0.07) for s in range(1, 20)])
    assert has_color(pixels, COLORS["text"])
    assert not has_color(pixels, COLORS["sketch"]) and not has_color(pixels, COLORS["fusion"])


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [step_entry(1)],
        [evaluation_entry(1)],
        [step_entry(1), evaluation_entry(1)],
        [evaluation_entry(1) | {"splits": {"val": [{"task": "text", "protocol": "full_gallery", "R1": None}]}}],
        [{"kind": "config", "step": 0, "changes": {}}],
        [step_entry(s, loss_text=math.nan, gradient_norm=math.inf, temperature=None) for s in range(1, 4)],
        [step_entry(1, loss_text=1.0), step_entry(2, loss_text=math.nan), step_entry(3, loss_text=-math.inf)],
        [step_entry(s, gradient_norm=0.0) for s in range(1, 3)],
        [step_entry(s, weight_text=math.nan) for s in range(1, 3 * POINTS)],
    ],
    ids=[
        "empty",
        "one step",
        "one evaluation",
        "one of each",
        "no match",
        "a note",
        "never finite",
        "some NaN",
        "zeros",
        "long",
    ],
)
def test_odd_logs_are_drawn(tmp_path, entries):
    assert drawn(tmp_path, entries).shape[1] == 1600


def test_a_torn_last_line_is_skipped(tmp_path):
    whole = drawn(tmp_path, [step_entry(1), step_entry(2)])
    assert (drawn(tmp_path, [step_entry(1), step_entry(2)], tail='{"kind": "st') == whole).all()


def test_thinning_keeps_short_series_as_they_are():
    x, y = np.arange(5.0), np.array([3.0, 1.0, np.nan, 4.0, 1.0])
    thin_x, mean, low, high = thin(x, y, points=5)
    assert np.array_equal(thin_x, x)
    assert all(np.array_equal(series, y, equal_nan=True) for series in (mean, low, high))


def test_thinning_averages_and_keeps_the_range_and_the_end():
    x = np.arange(1.0, 1001.0)
    y = np.where(x == 500, 70.0, 1.0)
    y[x == 700], y[(x > 800) & (x <= 900)] = np.inf, np.nan
    thin_x, mean, low, high = thin(x, y, points=10)
    assert np.array_equal(thin_x, np.arange(100.0, 1001.0, 100.0))
    expected = [1, 1, 1, 1, 1.69, 1, 1, 1, np.nan, 1]
    assert np.allclose(mean, expected, equal_nan=True)
    assert np.nanmax(high) == high[4] == 70 and np.nanmin(low) == 1 and np.isnan(low[8]) and np.isnan(high[8])


def test_a_long_log_takes_seconds(tmp_path):
    names = ("loss_text", "loss_sketch", "loss_fusion", "interaction", "temperature", "weight_text", "weight_sketch")
    entries = [step_entry(s, **dict.fromkeys(names, 1.0 / s)) for s in range(1, 60_001)]
    start = time.process_time()
    drawn(tmp_path, [*entries, *(evaluation_entry(epoch) for epoch in range(1, 61))])
    assert time.process_time() - start < 15  # 3 where it was written, half of it this test's own


def test_a_failure_leaves_the_picture_that_was_there(tmp_path, monkeypatch):
    drawn(tmp_path, [step_entry(1)])
    picture = tmp_path / "run" / "curves.png"
    before = picture.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match=r"curves\.png: cannot be written \(No space left on device\)"):
        draw_curves(tmp_path / "run" / "log.jsonl", picture)
    assert picture.read_bytes() == before and len(list(picture.parent.iterdir())) == 2


def test_pyplot_and_its_global_state_are_left_alone(tmp_path):
    drawn(tmp_path, [step_entry(1)])
    script = (
        "import sys; from pathlib import Path; from ms_unireid.training.curves import draw_curves\n"
        "draw_curves(Path(sys.argv[1]), Path(sys.argv[1]).with_name('again.png'))\n"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "run" / "log.jsonl")]
    assert subprocess.run(command, cwd=ROOT, timeout=60).returncode == 0
