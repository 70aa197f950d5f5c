"""Training, evaluation, interruption and resume through the command lines, on a tiny synthetic data set."""

import csv
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commands.killed_runs import train_killed
from PIL import Image
from run_comparison import BEST, RUN_FILES, assert_same_run, results_of
from tool_runner import CONFIGS, STEPS, load_tool, log_lines, run_tool, stop_at, tensors, train_arguments

from ms_unireid.config import Config, TrainConfig
from ms_unireid.errors import CheckpointError, ConfigError, UserError

HEADER = "task    protocol"
UNCOMPILED = "runtime.graph_mode=false"


@pytest.fixture(scope="session")
def finished(data, tmp_path_factory):
    """Return the folder of a whole run and what the tool printed."""
    place = tmp_path_factory.mktemp("finished")
    (place / "here").mkdir()
    done = run_tool("train.py", *train_arguments(data, place / "run"), cwd=place / "here")
    assert done.returncode == 0, done.stderr
    return place / "run", done


def train_here(data: Path, output: Path, *overrides: str) -> None:
    """Train in this process."""
    load_tool("train.py").main(train_arguments(data, output, *overrides))


# 1. What a run leaves.


def test_a_run_leaves_its_files_and_nothing_else(finished):
    run, _ = finished
    assert {p.name for p in run.iterdir()} == RUN_FILES
    assert list((run.parent / "here").iterdir()) == []


def test_stdout_holds_the_table_only(finished):
    run, done = finished
    best = results_of(run)["best"]["average"]
    blocks = done.stdout.split("best average, epoch ")[1:]
    assert [block.splitlines()[0] for block in blocks] == [f"{best['epoch']}, val", f"{best['epoch']}, test"]
    for block, rows in zip(blocks, best["splits"].values(), strict=True):
        _, header, *lines = block.splitlines()
        assert header.startswith(HEADER) and len(lines) == len(rows) == 4
        assert all(f"{row['R1']:.2f}" in line for row, line in zip(rows, lines, strict=True))


def test_no_traceback_of_a_clean_run(finished):
    assert "Traceback" not in finished[1].stderr


def test_the_log_counts_every_step_and_evaluation(finished):
    steps, evaluations = log_lines(finished[0], "step"), log_lines(finished[0], "evaluation")
    assert [entry["step"] for entry in steps] == list(range(1, 3 * STEPS + 1))
    assert [entry["epoch"] for entry in steps] == [1] * STEPS + [2] * STEPS + [3] * STEPS
    assert [(e["epoch"], e["step"]) for e in evaluations] == [(1, STEPS), (2, 2 * STEPS), (3, 3 * STEPS)]
    parts = {"loss_text", "loss_sketch", "loss_fusion", "interaction", "temperature", "weight_text", "weight_sketch"}
    assert all(parts <= entry.keys() and np.isfinite(entry["loss"]) for entry in steps)


def test_results_agree_with_the_log(finished):
    run, _ = finished
    results = results_of(run)
    logged = [{"epoch": e["epoch"], "splits": e["splits"]} for e in log_lines(run, "evaluation")]
    assert results["evaluations"] == logged
    assert results["selection_split"] == "val"
    assert {f"best_{task}.ckpt" for task in results["best"]} == BEST


def scores_of(rows: list[dict]) -> dict[str, float]:
    chosen = {"text": "full_gallery", "sketch": "exclude_source_photo", "fusion": "exclude_source_photo"}
    scores = {row["task"]: row["R1"] for row in rows if row["protocol"] == chosen[row["task"]]}
    return {**scores, "average": sum(scores.values()) / 3}


@pytest.mark.parametrize("task", ["text", "sketch", "fusion", "average"])
def test_each_best_is_of_its_own_first_best_epoch(finished, task):
    results = results_of(finished[0])
    scores = [scores_of(entry["splits"]["val"])[task] for entry in results["evaluations"]]
    best = results["best"][task]
    assert best["R1"] == pytest.approx(max(scores), abs=1e-9)
    assert best["epoch"] == 1 + int(np.argmax(scores))
    assert best["splits"] == results["evaluations"][best["epoch"] - 1]["splits"]
    assert best["checkpoint"] == f"best_{task}.ckpt"


def test_checkpoints_hold_their_own_epoch(finished):
    from ms_unireid.checkpoints.checkpoint import read_checkpoint

    run, _ = finished
    for task, best in results_of(run)["best"].items():
        meta = read_checkpoint(run / best["checkpoint"]).meta
        assert (meta["task"], meta["epoch"], meta["splits"]) == (task, best["epoch"], best["splits"])
    assert read_checkpoint(run / "last.ckpt").meta["epoch"] == 3


def test_the_saved_config_and_environment(finished, data):
    from ms_unireid.config import load_config

    run, _ = finished
    config = load_config(run / "config.yaml")
    assert (config.model.architecture, config.train.epochs, config.data.root) == ("tiny", 3, str(data))
    environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    assert environment["device"] == "CPU" and environment["packages"]["mindspore"]


# 2. Evaluation of a checkpoint.


def test_evaluation_gives_the_same_numbers_to_the_last_digit(finished, tmp_path):
    run, _ = finished
    files = {name: tmp_path / f"out.{name}" for name in ("json", "markdown", "png")}
    outputs = ["--json", files["json"], "--markdown", files["markdown"], "--figure", files["png"], "--queries", "2"]
    done = run_tool("evaluate.py", "--checkpoint", run / "best_average.ckpt", *outputs)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    written = json.loads(files["json"].read_text(encoding="utf-8"))
    assert written["rows"] == results_of(run)["best"]["average"]["splits"]["test"]
    assert written["split"] == "test" and written["checkpoint"].endswith("best_average.ckpt")
    header, *lines = done.stdout.splitlines()
    assert header.startswith(HEADER) and len(lines) == 4
    table = files["markdown"].read_text(encoding="utf-8").splitlines()
    assert len(table) == 6 and {(line.count("|"), line[0], line[-1]) for line in table} == {(11, "|", "|")}
    assert [rule.endswith("-:") for rule in table[1].strip("|").split("|")] == [False] * 2 + [True] * 8
    with Image.open(files["png"]) as figure:
        figure.load()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in files.values())


def test_all_protocols_on_another_split(finished, tmp_path, capsys):
    run, _ = finished
    arguments = ["--checkpoint", str(run / "best_text.ckpt"), "--split", "val", "--protocol", "all"]
    load_tool("evaluate.py").main([*arguments, "--json", str(tmp_path / "all.json")])
    rows = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))["rows"]
    assert len({(row["task"], row["protocol"]) for row in rows}) == len(rows) == 6
    assert all(row in rows for row in results_of(run)["best"]["text"]["splits"]["val"])
    assert len(capsys.readouterr().out.strip().splitlines()) == 7


def test_the_runs_config_may_be_given(finished, data, tmp_path, capsys):
    run, _ = finished
    arguments = ["--checkpoint", str(run / "last.ckpt"), "--config", str(run / "config.yaml"), "--split", "val"]
    load_tool("evaluate.py").main([*arguments, "--json", str(tmp_path / "last.json"), "eval.batch_size=5", UNCOMPILED])
    rows = json.loads((tmp_path / "last.json").read_text(encoding="utf-8"))["rows"]
    last = results_of(run)["evaluations"][-1]["splits"]["val"]
    assert [row["R1"] for row in rows] == [row["R1"] for row in last]


def test_a_config_of_another_architecture(finished, data, capsys):
    checkpoint, config = finished[0] / "best_text.ckpt", CONFIGS / "synthetic" / "demo.yaml"
    with pytest.raises(UserError, match=rf"{checkpoint}.*tiny"):
        load_tool("evaluate.py").main(["--checkpoint", str(checkpoint), "--config", str(config), f"data.root={data}"])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("content", "words"), [(None, "no such file"), (b"", "empty file"), (b"<html>", "web page")])
def test_files_that_are_not_checkpoints(tmp_path, content, words):
    path = tmp_path / "x.ckpt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"x\.ckpt: .*{words}"):
        load_tool("evaluate.py").main(["--checkpoint", str(path)])


def test_help_has_an_example():
    for tool in ("train.py", "evaluate.py", "make_synthetic.py"):
        done = run_tool(tool, "--help")
        assert done.returncode == 0 and f"example: {tool}" in done.stdout


# 3. Interruption and resume.


def assert_stopped(done, number: signal.Signals, run: Path) -> None:
    # While a graph compiles or runs MindSpore turns Ctrl-C into SIGTERM.
    assert done.returncode in {128 + number, 128 + signal.SIGTERM}, done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    assert f"resume with train.resume={run}" in done.stderr
    assert (run / "last.ckpt").exists()
    assert len(log_lines(run, "step")) < 3 * STEPS


@pytest.mark.exhaustive
def test_a_stopped_run_resumes_as_if_never_stopped(finished, data, tmp_path, capsys):
    """Within an epoch, and compiled."""
    run = tmp_path / "run"
    assert_stopped(stop_at(STEPS + 3, signal.SIGINT, run, train_arguments(data, run)), signal.SIGINT, run)
    load_tool("train.py").main([f"train.resume={run}"])
    assert HEADER in capsys.readouterr().out
    assert_same_run(run, finished[0])


def test_a_run_stopped_and_killed_again_and_again_ends_as_an_uninterrupted_one(data, tmp_path):
    """Stopped at an evaluation, then killed; with other workers, which change nothing either."""
    run, options = tmp_path / "run", (UNCOMPILED, "train.checkpoint_every=4", "train.epochs=2")
    train_here(data, tmp_path / "straight", *options)
    arguments = train_arguments(data, run, *options, "runtime.workers=1", "runtime.prefetch=1")
    assert_stopped(stop_at(STEPS, signal.SIGTERM, run, arguments), signal.SIGTERM, run)
    assert train_killed(arguments, run, (5, 8)).steps
    assert_same_run(run, tmp_path / "straight")


def test_a_finished_run_resumes_to_its_table(finished, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    load_tool("train.py").main([f"train.resume={run}"])
    assert capsys.readouterr().out == finished[1].stdout
    assert_same_run(run, finished[0])


# 4. Run folders that do not fit.


def test_resume_with_another_learning_rate_is_refused(finished):
    run, _ = finished
    before = {p.name: p.stat().st_mtime_ns for p in run.iterdir()}
    with pytest.raises(ConfigError, match=r"config\.yaml: .*train\.learning_rate: 0\.001 -> 0\.002"):
        load_tool("train.py").main([f"train.resume={run}", "train.learning_rate=2e-3"])
    assert {p.name: p.stat().st_mtime_ns for p in run.iterdir()} == before


def test_resume_of_a_folder_without_a_run(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        load_tool("train.py").main([f"train.resume={tmp_path / 'nowhere'}"])


def test_resume_from_a_damaged_state(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    (run / "previous.ckpt").unlink()
    state = (run / "last.ckpt").read_bytes()
    (run / "last.ckpt").write_bytes(state[: len(state) // 2])
    with pytest.raises(CheckpointError, match=r"last\.ckpt: cannot be read as a MindSpore checkpoint"):
        load_tool("train.py").main([f"train.resume={run}"])


def test_a_used_output_folder_is_refused(finished, data):
    run, _ = finished
    before = {p.name: p.stat().st_mtime_ns for p in run.iterdir()}
    with pytest.raises(ConfigError, match=r"already holds a run; resume it with train\.resume"):
        train_here(data, run)
    assert {p.name: p.stat().st_mtime_ns for p in run.iterdir()} == before


# 5. Bad input: each a function that spoils a copy of the data set, overrides, and what the one line must hold.


def edit(change: Callable[[list], None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        file = folder / "reid_raw.json"
        entries = json.loads(file.read_text(encoding="utf-8"))
        change(entries)
        file.write_text(json.dumps(entries), encoding="utf-8")

    return spoil


def shorten_a_photo(folder: Path) -> None:
    path = folder / "imgs" / "synthetic" / "0001001.png"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def drop_val(entries: list) -> None:
    entries[:] = [entry for entry in entries if entry["split"] != "val"]


BAD_DATA = {
    "missing root": (lambda f: shutil.rmtree(f), [], ["CUHK-PEDES/", "Fix: set the data root"]),
    "missing sketch": (
        lambda f: (f / "imgs-sketch2/synthetic/0001001.png").unlink(),
        [],
        ["imgs-sketch2", "synthetic/0001001.png", "Fix: unpack"],
    ),
    "missing photo": (
        lambda f: (f / "imgs/synthetic/0001001.png").unlink(),
        [],
        ["imgs", "synthetic/0001001.png", "Fix:"],
    ),
    "missing sketch folder": (lambda f: shutil.rmtree(f / "imgs-sketch2"), [], ["imgs-sketch2", "Fix:"]),
    "truncated photo": (shorten_a_photo, [], ["imgs/synthetic/0001001.png", "Fix: copy the file again"]),
    "photo that is text": (
        lambda f: (f / "imgs/synthetic/0001001.png").write_text("no", encoding="utf-8"),
        [],
        ["imgs/synthetic/0001001.png", "not a picture", "Fix:"],
    ),
    "empty captions": (edit(lambda e: e[0].update(captions=[])), [], ["reid_raw.json, entry 0", "'captions'", "Fix:"]),
    "duplicate path": (
        edit(lambda e: e[1].update(file_path=e[0]["file_path"])),
        [],
        ["reid_raw.json, entry 1", "already in entry 0", "Fix:"],
    ),
    "identity gap": (
        edit(lambda e: [x.update(id=99) for x in e if x["id"] == 5]),
        [],
        ["reid_raw.json", "the first gap is at 5", "data.allow_identity_gaps=true"],
    ),
    "caption_all.json": (
        lambda f: (f / "reid_raw.json").rename(f / "caption_all.json"),
        [],
        ["caption_all.json", "expected reid_raw.json", "Fix:"],
    ),
    "JSON cut off": (
        lambda f: (f / "reid_raw.json").write_text('[{"split": "tr', encoding="utf-8"),
        [],
        ["reid_raw.json", "not valid JSON", "Fix:"],
    ),
    "selection split": (
        edit(drop_val),
        ["eval.selection_split=val"],
        ["eval.selection_split=val", "choose one of them"],
    ),
    "reported split": (edit(drop_val), ["eval.splits=[val]"], ["reid_raw.json", "'val'", "Fix:"]),
    "batch too large": (None, ["data.batch_size=200", "data.drop_last=true"], ["72 pairs", "lower data.batch_size"]),
    "too few persons": (
        None,
        ["data.batch_size=13", "data.sampler=distinct_identities"],
        ["12 identities", "lower data.batch_size"],
    ),
    "pretrained missing": (None, ["model.pretrained=none.ckpt"], ["none.ckpt: no such file", "expected"]),
}


@pytest.fixture
def spoiled(data, tmp_path) -> Callable[[str], tuple[Path, list[str], list[str]]]:
    def make(name: str) -> tuple[Path, list[str], list[str]]:
        spoil, overrides, words = BAD_DATA[name]
        root = data
        if spoil is not None:
            root = tmp_path / "data"
            shutil.copytree(data, root)
            spoil(root / "CUHK-PEDES")
        return root, overrides, words

    return make


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data_is_one_error_before_the_run_folder(spoiled, tmp_path, name):
    root, overrides, words = spoiled(name)
    with pytest.raises(UserError) as caught:
        train_here(root, tmp_path / "run", *overrides)
    message = str(caught.value)
    assert [word for word in words if word not in message] == [], message
    assert "\n" not in message and len(message) < 1200
    assert not (tmp_path / "run").exists()


def test_bad_data_on_the_command_line(spoiled, tmp_path):
    root, overrides, words = spoiled("truncated photo")
    done = run_tool("train.py", *train_arguments(root, tmp_path / "run", *overrides))
    assert (done.returncode, done.stdout) == (2, "")
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert all(word in error for word in words) and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_wrong_key_on_the_command_line(data, tmp_path):
    done = run_tool("train.py", *train_arguments(data, tmp_path / "run", "train.epoch=1"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "error: override 'train.epoch=1': unknown key 'train.epoch'; did you mean 'train.epochs'"
    )
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_device_that_is_not_there(data, tmp_path):
    import mindspore as ms

    if ms.get_context("device_target") != "CPU":
        pytest.skip("this machine has the device")
    done = run_tool("train.py", *train_arguments(data, tmp_path / "run", "runtime.device=Ascend"))
    assert (done.returncode, done.stdout) == (2, "")
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "Ascend" in error and "runtime.device=CPU" in error and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_picture_that_goes_bad_during_training(data, tmp_path):
    """The check before training reads the ends of a file only; the rest is found by a worker."""
    root = tmp_path / "data"
    shutil.copytree(data, root)
    path = root / "CUHK-PEDES" / "imgs" / "synthetic" / "0001001.png"
    content = bytearray(path.read_bytes())
    content[60:-60] = os.urandom(len(content) - 120)
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        train_here(root, tmp_path / "run", UNCOMPILED)
    assert str(path) in str(caught.value) and "Fix:" in str(caught.value)


# 6. Samplers and single-task objectives. 7. Pretrained weights.


@pytest.mark.parametrize(
    ("tasks", "sampling"),
    [
        ("text", ["data.sampler=distinct_identities"]),
        ("sketch", ["data.sampler=identity", "data.instances=2"]),
        ("fusion", ["data.drop_last=true"]),
    ],
)
def test_single_tasks_and_samplers(data, tmp_path, tasks, sampling):
    switches = [f"objective.tasks=[{tasks}]", "objective.dynamic=false", "objective.interaction_weight=0"]
    short = ("train.epochs=1", "eval.splits=[test]", UNCOMPILED)
    train_here(data, tmp_path / "run", *switches, *sampling, *short)
    assert {p.name for p in (tmp_path / "run").iterdir()} == RUN_FILES - {"previous.ckpt"}
    entries = log_lines(tmp_path / "run", "step")
    losses = {key for key in entries[0] if key.startswith("loss_")}
    assert losses == {f"loss_{tasks}"} and len(entries) >= 4
    rows = results_of(tmp_path / "run")["evaluations"][0]["splits"]
    assert rows.keys() == {"test", "val"} and all(len(r) == 4 for r in rows.values())


@pytest.mark.exhaustive
def test_the_rate_can_change_at_every_step_and_two_steps_are_profiled(data, tmp_path):
    options = ("train.epochs=2", "train.warmup_steps=3", "eval.splits=[test]", "train.profile_steps=[2, 3]")
    train_here(data, tmp_path / "run", *options)
    from ms_unireid.training.optimizer import learning_rates

    rates = [entry["learning_rate"] for entry in log_lines(tmp_path / "run", "step")]
    expected = TrainConfig(epochs=2, warmup_steps=3, learning_rate=1e-3)
    assert rates == pytest.approx(learning_rates(Config(train=expected), steps=len(rates) // 2))
    (profile,) = (tmp_path / "run" / "profile").glob("*/FRAMEWORK/cpu_op_type_info_0.csv")
    with profile.open(newline="") as lines:
        found = {row["op_type"]: int(row["type_occurrences"]) for row in csv.DictReader(lines)}
    assert found["Adam"] == 2 * sum(".exp_avg." in f".{name}" for name in tensors(tmp_path / "run" / "last.ckpt"))


def started(data: Path, output: Path, *overrides: str) -> dict[str, bytes]:
    """Return a trainer's parameters before its first step."""
    from ms_unireid.config import load_config
    from ms_unireid.training.trainer import Trainer

    arguments = train_arguments(data, output, *overrides)[2:]
    model = Trainer(load_config(CONFIGS / "base.yaml", arguments), {}).model
    return {p.name: p.asnumpy().tobytes() for p in model.get_parameters()}


@pytest.mark.parametrize("resumed", [False, True], ids=["new", "stopped before its first checkpoint"])
def test_pretrained_weights_are_where_training_starts(finished, data, tmp_path, resumed):
    checkpoint = finished[0] / "best_average.ckpt"
    run, switch = tmp_path / "run", f"model.pretrained={checkpoint}"
    scratch = started(data, tmp_path / "scratch")
    now = started(data, run, switch)
    if resumed:
        now = started(data, run, switch, f"train.resume={run}")
    source = tensors(checkpoint)
    names = [name for name in now if name != "logit_scale"]
    assert all(now[name] == source[name] for name in names)
    assert now["logit_scale"] == scratch["logit_scale"] != source["logit_scale"]
    assert any(scratch[name] != source[name] for name in names)
