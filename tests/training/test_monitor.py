"""Progress of a run: the bar's text, event files across resumes, the picture, the last line."""

import contextlib
import math
import struct
import sys
from pathlib import Path

import pytest
from tqdm import tqdm

from ms_unireid.config import load_config
from ms_unireid.errors import EnvironmentProblem, UserError
from ms_unireid.training.monitor import BAR_FORMAT, Monitor, StepProfiler
from ms_unireid.training.run_folder import RunFolder

EMPTY = {"best": {}, "evaluations": []}
PARTS = {"loss_text": 1.25, "loss_sketch": 12.7, "loss_fusion": 0.875, "interaction": 0.04}


def step_entry(step: int, **values: float) -> dict:
    entry = {"kind": "step", "epoch": 12, "step": step, "learning_rate": 1e-5, "loss": 3.216}
    return {**entry, **PARTS, "temperature": 0.07, **values}


def rows(text: float, full: float, sketch: float, fusion: float) -> list[dict]:
    metrics = {"R5": 90.0, "R10": 95.0, "mAP": 40.0, "mINP": 30.0, "chance_R1": 1.0, "queries": 9}
    scores = [("text", text), ("sketch", sketch), ("fusion", fusion)]
    found = [{"task": t, "protocol": "exclude_source_photo", "R1": R1, **metrics} for t, R1 in scores]
    return [*found, {"task": "text", "protocol": "full_gallery", "R1": full, **metrics}]


def evaluated(*epochs: int) -> tuple[dict, dict]:
    """Return the log's entry of the last epoch and the contents of results.json; the first epoch is the best."""
    splits = {"val": rows(50.0, 54.125, 55.25, 78.375), "test": rows(41.0, 42.0, 43.0, 44.0)}
    evaluations = [{"epoch": epoch, "seconds": 1.0, "splits": splits} for epoch in epochs]
    best = {"average": {"checkpoint": "best_average.ckpt", "epoch": epochs[0], "R1": 62.58, "splits": splits}}
    results = {"best": best, "evaluations": evaluations, "selection_split": "val"}
    return {"kind": "evaluation", "step": 9 * epochs[-1], **evaluations[-1]}, results


@pytest.mark.parametrize(
    ("steps", "first", "recorded"),
    [
        ((2, 4), 1, [2, 3, 4]),
        ((2, 4), 3, [3, 4]),
        ((3, 3), 1, [3]),
        ((5, 9), 1, [5, 6]),
        ((2, 4), 5, []),
        (None, 1, []),
    ],
)
def test_a_run_records_the_steps_that_it_takes(monkeypatch, folder, steps, first, recorded):
    calls, number = [], 0

    class Recorder:
        def step(self):
            calls.append(number)

        def stop(self):
            calls.append("stop")

    monkeypatch.setattr(StepProfiler, "_started", lambda _, count: calls.append(f"for {count}") or Recorder())
    profiler = StepProfiler(steps, folder.root / "profile")
    with contextlib.closing(profiler):
        for number in range(first, 7):
            with profiler.step(number):
                pass
    assert calls == ([f"for {steps[1] + 1 - recorded[0]}", *recorded, "stop"] if recorded else [])


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    (tmp_path / "run").mkdir()
    return RunFolder(tmp_path / "run")


def monitor(folder: RunFolder, *overrides: str, results: dict = EMPTY, step: int = 0) -> Monitor:
    return Monitor(folder, load_config(None, overrides), results, step)


# 1. The bar.


def test_the_bars_text_grows_with_what_is_known(folder):
    watch = monitor(folder)
    assert watch.postfix() == ""
    watch.step(step_entry(1))
    assert watch.postfix() == "e12 loss 3.22 T1.2 S13 F0.9 c0.0"
    entry, results = evaluated(1, 2)
    folder.log(entry)
    watch.evaluation(entry, results)
    assert watch.postfix() == "e12 loss 3.22 T1.2 S13 F0.9 c0.0 R1 54.1/55.2/78.4 best 62.6"


def test_the_selection_text_protocol_is_shown(folder):
    _, results = evaluated(1)
    shown = monitor(folder, "eval.selection_text_protocol=exclude_source_photo", results=results).postfix()
    assert shown == "R1 50.0/55.2/78.4 best 62.6"


def test_a_text_only_objective_shows_its_only_part(folder):
    watch = monitor(folder)
    watch.step({"kind": "step", "epoch": 1, "step": 1, "loss": 2.0, "loss_text": 2.0, "temperature": 0.07})
    assert watch.postfix() == "e1 loss 2.00 T2.0"


@pytest.mark.parametrize("loss", [0.001, 9.999, 99.99, 1234.5, math.nan, math.inf])
def test_the_bar_fits_100_columns(folder, loss):
    _, results = evaluated(1)
    watch = monitor(folder, results=results)
    watch.step(step_entry(1, loss=loss, **dict.fromkeys(PARTS, min(loss, 999.0))))
    done = {"n": 2_400_000, "total": 4_087_560, "elapsed": 11 * 3600 + 1234, "rate": 5.76, "unit": "pair"}
    line = tqdm.format_meter(
        ncols=100, unit_scale=True, bar_format=BAR_FORMAT, postfix=watch.postfix(), ascii=" #", **done
    )
    assert line.startswith(" 59%|") and "5.76pair/s" in line
    assert len(line) <= 100 and line.endswith("best 62.6")


# 2. Event files.


def events(folder: RunFolder) -> list:
    """Read every event of a run in the order that TensorBoard does."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted((folder.root / "tensorboard").iterdir()):
        content, start = file.read_bytes(), 0
        while start < len(content):
            (length,) = struct.unpack_from("<Q", content, start)
            found.append(Event.FromString(content[start + 12 : start + 12 + length]))
            start += length + 16  # length and its checksum, the event and its checksum
    return found


def scalars(folder: RunFolder) -> list[tuple[str, int, float]]:
    """Read (name, step, value) as TensorBoard shows them: a restart at a step drops what came from it on."""
    shown = []
    for event in events(folder):
        if event.HasField("session_log"):
            shown = [point for point in shown if point[1] < event.step]
        shown += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
    return shown


def test_no_event_files_by_default(folder):
    watch = monitor(folder)
    watch.step(step_entry(1))
    watch.close()
    assert not (folder.root / "tensorboard").exists()


def test_every_number_is_an_event_on_disk_at_once(folder):
    watch = monitor(folder, "train.tensorboard=true")
    watch.step(step_entry(7, loss_text=math.nan))
    found = {name: (step, value) for name, step, value in scalars(folder)}
    expected = {"learning_rate", "loss", "temperature", *PARTS}
    assert found.keys() == {f"step/{name}" for name in expected}
    assert found["step/loss"] == (7, pytest.approx(3.216)) and math.isnan(found["step/loss_text"][1])
    assert (folder.root / "tensorboard").is_dir() and events(folder)[0].file_version == "brain.Event:2"
    watch.close()


def test_an_evaluation_is_an_event_per_split_task_protocol_and_metric(folder):
    entry, results = evaluated(1, 2)
    folder.log(entry)
    watch = monitor(folder, "train.tensorboard=true")
    watch.evaluation(entry, results)
    watch.close()
    found = {name: (step, value) for name, step, value in scalars(folder)}
    assert len(found) == 2 * 4 * 5
    assert found["eval/test/text/exclude_source_photo/R1"] == (18, 41.0)
    assert found["eval/val/text/full_gallery/R1"] == (18, 54.125)
    assert found["eval/val/fusion/exclude_source_photo/mINP"] == (18, 30.0)


def test_a_killed_and_resumed_run_has_each_step_once(folder):
    killed = monitor(folder, "train.tensorboard=true")
    for step in range(1, 8):
        killed.step(step_entry(step))  # never closed
    for start in (5, 5, 7):  # two resumes within a second from one state, and one from a later state
        resumed = monitor(folder, "train.tensorboard=true", step=start)
        for step in range(start + 1, 10):
            resumed.step(step_entry(step, loss=float(start)))
        resumed.close()
    losses = [(step, value) for name, step, value in scalars(folder) if name == "step/loss"]
    assert [step for step, _ in losses] == list(range(1, 10))
    assert [value for _, value in losses] == pytest.approx([3.216] * 5 + [5.0] * 2 + [7.0] * 2)


def test_a_missing_writer_names_the_package_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX.event_file_writer", None)
    with pytest.raises(EnvironmentProblem, match=r"train\.tensorboard=true.*pip install '\.\[tensorboard\]'"):
        monitor(folder, "train.tensorboard=true")
    monitor(folder).step(step_entry(1))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_stops_with_one_line(folder, monkeypatch):
    watch = monitor(folder, "train.tensorboard=true")
    with open("/dev/full", "wb") as full:
        monkeypatch.setattr(watch.events.writer._py_recordio_writer, "_writer", full)
        with pytest.raises(UserError, match=r"tensorboard: event files cannot be written \(No space left"):
            watch.step(step_entry(1))
        monkeypatch.undo()
        full.close = lambda: None
    watch.close()


def test_a_file_in_place_of_the_folder(folder):
    (folder.root / "tensorboard").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"tensorboard: event files cannot be written"):
        monitor(folder, "train.tensorboard=true")


# 3. The picture and the last line.


def test_each_evaluation_draws_the_curves(folder):
    entry, results = evaluated(1)
    folder.log(step_entry(9))
    folder.log(entry)
    monitor(folder).evaluation(entry, results)
    assert (folder.root / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_task_without_a_match_is_a_dash(folder):
    entry, results = evaluated(1)
    for row in entry["splits"]["val"]:
        row["R1"] = row["R1"] if row["task"] == "sketch" else None
    folder.log(entry)
    watch = monitor(folder)
    watch.evaluation(entry, results)
    assert watch.postfix() == "R1 -/55.2/- best 62.6"
    assert "(text -, sketch 55.25, fusion -)" in watch.summary_line(results)


def test_the_last_line(folder, monkeypatch):
    _, results = evaluated(41, 60)
    watch = monitor(folder)
    monkeypatch.setattr("time.monotonic", lambda: watch.start + 36_754.4)
    assert watch.summary_line(results) == (
        "best average R1 62.58 on val at epoch 41 of 60 (text 54.12, sketch 55.25, fusion 78.38); "
        f"took 10:12:34; files in {folder.root}"
    )
