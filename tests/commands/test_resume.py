"""A run after a kill, a damaged state or a full disk: it resumes without any difference, or reports why it cannot.

The trainer is the real one, on real pictures; the step, the encoders and the drawing of curves are stand-ins of a few
operations, so that a kill can be tried at every single write.
"""

import contextlib
import dataclasses
import errno
import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from run_comparison import assert_same_run
from tool_runner import CONFIGS, log_lines, train_arguments

from ms_unireid.checkpoints.checkpoint import read_checkpoint
from ms_unireid.checkpoints.formats.any_file import read_tensor_file
from ms_unireid.checkpoints.formats.mindspore_file import write_mindspore
from ms_unireid.checkpoints.formats.tensor_file import META, Entry
from ms_unireid.config import load_config
from ms_unireid.config_schema import ARCHITECTURES
from ms_unireid.data.evaluation_sets import EvaluationSet
from ms_unireid.errors import CheckpointError, ConfigError, UserError
from ms_unireid.evaluation.queries import SplitFeatures
from ms_unireid.files import replacing
from ms_unireid.training import monitor, trainer
from ms_unireid.training.run_folder import RunFolder
from ms_unireid.training.train_step import StepResult, TrainOneStepCell

# 72 pairs: three steps an epoch, states saved at steps 2, 3, 4 and 6.
SHORT = ("data.batch_size=24", "train.epochs=2", "train.checkpoint_every=2", "eval.splits=[val]")
STEPS = 6


class Killed(BaseException):
    """Stands for the end of the process: no code catches it."""


class CheapStep(TrainOneStepCell):
    """Changes one weight and one moment by the content of the batch."""

    def __call__(self, images, sketches, token_ids, learning_rate, bias_rate):
        scale, moment = self.network.model.logit_scale, self.state()[0]
        moment.set_data(Tensor(0.9 * moment.asnumpy() + images.mean() + token_ids.mean()))
        scale.set_data(Tensor(scale.asnumpy() - learning_rate * moment.asnumpy().mean() + sketches.mean()))
        return self.result(float(scale.asnumpy()))

    def result(self, loss):
        values = Tensor([loss, *[0.0] * len(self.part_names), 1.0, *(p.asnumpy() for p in self.scale())], ms.float32)
        return StepResult(values[0], values, self.value_names)

    def scale(self):
        scale = self.loss_scale
        return (scale.value, scale.overflows, scale.in_a_row) if scale.active else ()


class CheapFeatures:
    """Random features, decided by that weight."""

    def __init__(self, model, *_):
        self.scale = model.logit_scale

    def encode(self, data):
        chance = np.random.default_rng(np.frombuffer(self.scale.asnumpy().tobytes(), np.uint32))
        count = len(data.photos)
        photo, sketch, text = chance.normal(size=(3, count, 8)).astype(np.float32)
        return SplitFeatures(photo, sketch, text, person_ids=data.person_ids, caption_photos=np.arange(count))


def cheap_curves(log_file: Path, output: Path) -> None:
    """Write what the curves would be drawn from; matplotlib takes ten times as long as the rest of a run."""
    with replacing(output) as temporary:
        temporary.write_bytes(log_file.read_bytes())


def cheap_lists(feats: SplitFeatures, data: EvaluationSet, path: Path) -> None:
    """Write what the ranked lists would be drawn from."""
    with replacing(path) as temporary:
        temporary.write_bytes(feats.photo.tobytes())


@pytest.fixture(autouse=True, scope="module")
def cheap() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "TrainOneStepCell", CheapStep)
        patch.setattr(trainer, "Encoder", CheapFeatures)
        patch.setattr(monitor, "draw_curves", cheap_curves)
        patch.setattr(trainer, "draw_ranked_lists", cheap_lists)
        patch.setattr(os, "fsync", lambda _: None)
        patch.setitem(ARCHITECTURES, "tiny", dataclasses.replace(ARCHITECTURES["tiny"], vocabulary_size=600))
        yield


@pytest.fixture(scope="module")
def train(cheap, data) -> Callable[..., None]:
    """Return a function that trains into a folder, and resumes a run that the folder holds."""

    def run(folder: Path, *overrides: str) -> None:
        arguments = train_arguments(data, folder, *SHORT, "train.resume=auto", *overrides)[2:]
        trainer.Trainer(load_config(CONFIGS / "base.yaml", arguments), {}).fit()

    return run


@pytest.fixture(scope="module")
def straight(train, tmp_path_factory) -> Path:
    """Return the folder of an uninterrupted run; tests must not change it."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    train(folder)
    return folder


@contextlib.contextmanager
def killed_at(call: int, owner: object, name: str, half_done: Callable[..., None]) -> Iterator[list[int]]:
    """Kill the process at the nth call of a function, which does only `half_done`; yield the count of calls."""
    calls, original = [0], getattr(owner, name)

    def counted(*arguments):
        calls[0] += 1
        if calls[0] == call:
            half_done(*arguments)
            # A killed process tidies nothing up.
            patch.setattr(Path, "unlink", lambda *_, **__: None)
            raise Killed
        return original(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, counted)
        yield calls


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_line(folder: RunFolder, entry: dict) -> None:
    line = json.dumps(entry)
    with folder.log_file.open("a", encoding="utf-8") as file:
        file.write(line[: len(line) // 2])


def cut_if_new(source: Path, _: Path) -> None:
    if ".partial" in Path(source).name:
        cut(Path(source))


# Every file but the log is written under a temporary name, which `os.replace` takes from it.
KILLS = {"a file": (os, "replace", cut_if_new), "a line of the log": (RunFolder, "log", cut_line)}


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("kill", KILLS)
def test_a_kill_at_any_write_changes_nothing(train, straight, tmp_path, kill, every):
    call = 1 - every
    while True:
        call += every
        run = tmp_path / f"killed_{call}"
        try:
            with killed_at(call, *KILLS[kill]) as calls:
                train(run)
            break
        except Killed:
            train(run)
            assert_same_run(run, straight)
            shutil.rmtree(run)
    assert call - every <= calls[0] < call and call > STEPS


def test_a_run_killed_in_each_of_its_continuations_gets_to_its_end(train, straight, tmp_path):
    run, deaths = tmp_path / "run", 0
    while deaths < STEPS:
        try:
            with killed_at(3, RunFolder, "log", cut_line):
                train(run)
            break
        except Killed:
            deaths += 1
    assert 3 <= deaths < STEPS
    assert_same_run(run, straight)


def kill_at_step(train: Callable[..., None], run: Path, step: int) -> None:
    with contextlib.suppress(Killed), killed_at(step, CheapStep, "__call__", lambda *_: None):
        train(run)


def position(state: Path) -> int:
    return read_checkpoint(state).meta["step"]


def test_states_are_saved_within_an_epoch_and_at_its_end(train, straight, tmp_path):
    assert (position(straight / "last.ckpt"), position(straight / "previous.ckpt")) == (6, 4)
    run = tmp_path / "run"
    kill_at_step(train, run, 4)
    assert (position(run / "last.ckpt"), position(run / "previous.ckpt")) == (3, 2)


def test_without_checkpoint_every_an_epochs_end_is_saved_only(train, tmp_path):
    train(tmp_path / "run", "train.checkpoint_every=null")
    assert (position(tmp_path / "run/last.ckpt"), position(tmp_path / "run/previous.ckpt")) == (6, 3)


def test_a_cache_of_decoded_pictures_changes_no_number(train, straight, tmp_path):
    run, cache = tmp_path / "run", f"runtime.decoded_cache={tmp_path / 'decoded'}"
    with contextlib.suppress(Killed), killed_at(2, CheapStep, "__call__", lambda *_: None):
        train(run, cache)
    (pixels,) = (tmp_path / "decoded").glob("*.pixels")
    assert pixels.stat().st_size == 2 * (36 + 12) * 32 * 16 * 3  # photos and sketches of train and val
    with contextlib.suppress(Killed), killed_at(3, CheapStep, "__call__", lambda *_: None):
        train(run)
    train(run, cache)
    assert_same_run(run, straight)


DAMAGES = {
    "cut in half": cut,
    "empty": lambda p: p.write_bytes(b""),
    "without its last byte": lambda p: p.write_bytes(p.read_bytes()[:-1]),
    "a bit of a weight": lambda p: p.write_bytes(flipped(p.read_bytes())),
    "lost": Path.unlink,
}


def flipped(content: bytes) -> bytes:
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("explicit", [False, True], ids=["auto", "named"])
def test_a_damaged_last_state_is_replaced_by_the_previous_one(train, straight, tmp_path, capsys, damage, explicit):
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    DAMAGES[damage](run / "last.ckpt")
    train(run, *([f"train.resume={run}"] if explicit else []))
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning:")]
    assert str(run / "last.ckpt") in warning
    assert warning.endswith(f"resuming from {run / 'previous.ckpt'} (epoch 2, step 4)")
    assert_same_run(run, straight)


def test_a_kill_after_falling_back_leaves_a_whole_state(train, straight, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    cut(run / "last.ckpt")
    kill_at_step(train, run, 1)
    assert position(run / "last.ckpt") == 4
    train(run)
    assert_same_run(run, straight)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_two_damaged_states_are_an_error_and_stay_as_they_are(train, straight, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    for name in ("last.ckpt", "previous.ckpt"):
        cut(run / name)
    before = contents(run)
    with pytest.raises(CheckpointError, match=r"neither state .*last\.ckpt.*previous\.ckpt.* delete both"):
        train(run)
    assert contents(run) == before


def test_with_both_states_gone_the_run_starts_over(train, straight, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    for name in ("last.ckpt", "previous.ckpt"):
        (run / name).unlink()
    train(run)
    assert_same_run(run, straight)


def test_a_full_disk_is_reported_and_the_run_resumes_when_there_is_room(train, straight, tmp_path):
    run = tmp_path / "run"
    kill_at_step(train, run, 4)
    before = {name: (run / name).read_bytes() for name in ("last.ckpt", "previous.ckpt")}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 17, limits[1]))
    try:
        with pytest.raises(UserError, match=r"partial\.ckpt: cannot be written \(File too large\); make room"):
            train(run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {name: (run / name).read_bytes() for name in before} == before
    train(run)
    assert_same_run(run, straight)


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC], ids=errno.errorcode.get)
def test_a_folder_that_cannot_be_written_is_reported_and_left_alone(train, straight, monkeypatch, number):
    before = contents(straight)

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(UserError, match=rf"cannot be written \({os.strerror(number)}\)"):
            train(straight)
    assert contents(straight) == before


def test_changed_keys_are_refused_and_accepted_if_allowed(train, tmp_path):
    run = tmp_path / "run"
    kill_at_step(train, run, 4)
    with pytest.raises(ConfigError, match=r"\(train\.epochs: 2 -> 3\).*train\.allow_changes=\[train\.epochs\]"):
        train(run, "train.epochs=3")
    train(run, "train.epochs=3", "train.allow_changes=[train.epochs]")
    (note,) = log_lines(run, "config")
    assert note == {"kind": "config", "step": 3, "changes": {"train.epochs": [2, 3]}}
    assert [entry["step"] for entry in log_lines(run, "step")] == list(range(1, 10))
    assert load_config(run / "config.yaml").train.epochs == 3
    train(run, "train.epochs=3")


def test_fewer_epochs_than_were_begun_are_refused(train, straight):
    with pytest.raises(ConfigError, match=r"train\.epochs=1: the run is in epoch 2 already"):
        train(straight, "train.epochs=1", "train.allow_changes=[train.epochs]")


@pytest.mark.parametrize(
    ("overflows", "words"),
    [(False, "the loss is nan at epoch 2, step 5; "), (True, r"at epoch 2, step 5 .*overflowed in 2 steps in a row")],
)
@pytest.mark.parametrize("immediately", [True, False])
def test_the_batch_that_stops_a_run_is_saved(train, tmp_path, monkeypatch, overflows, words, immediately):
    """On a CPU the step is looked at immediately, elsewhere before the next log entry or state, here that of step 6."""
    step = CheapStep.__call__
    seen = []

    def spoiled(self, images, sketches, token_ids, *rates):
        seen.append(token_ids)
        result = step(self, images, sketches, token_ids, *rates)
        if overflows:
            self.loss_scale(Tensor(len(seen) not in (2, 4, 5)))
        return self.result(float("nan") if len(seen) == 5 and not overflows else float(result.loss))

    monkeypatch.setattr(CheapStep, "__call__", spoiled)
    if not immediately:
        monkeypatch.setattr(trainer, "ms", SimpleNamespace(get_context=lambda _: "Ascend"))
    run = tmp_path / "run"
    with pytest.raises(UserError, match=rf"{words}.*bad_batch\.json; last\.ckpt") as caught:
        train(run, "runtime.max_overflows=2", "runtime.precision=mixed", "train.log_every=7", "runtime.fused_ops=fast")
    assert position(run / "last.ckpt") == 4 and len(seen) == (5 if immediately else 6)
    assert str(run / "bad_batch.json") in str(caught.value)
    bad = json.loads((run / "bad_batch.json").read_text(encoding="utf-8"))
    assert (bad["epoch"], bad["step"], len(bad["pairs"])) == (2, 5, 24)
    from ms_unireid.data.tokenizer import Tokenizer

    assert np.array_equal(Tokenizer(24, 600)([pair["caption"] for pair in bad["pairs"]]), seen[4])
    assert all(Path(pair["photo"]).exists() and Path(pair["sketch"]).exists() for pair in bad["pairs"])


def test_a_loss_that_is_not_finite_before_the_first_state(train, tmp_path, monkeypatch):
    monkeypatch.setattr(CheapStep, "__call__", lambda self, *batch: self.result(float("nan")))
    with pytest.raises(UserError, match=r"at epoch 1, step 1; .*no state was saved yet"):
        train(tmp_path / "run")


OTHERS = {
    "train.seed=2": r"train\.seed: 2 -> 1",
    "train.learning_rate=2e-5": r"train\.learning_rate: 2e-05 -> ",
    "objective.gamma=1": r"objective\.gamma: 1\.0 -> 3\.5",
}


@pytest.mark.parametrize("other", OTHERS)
def test_the_state_of_another_run_is_refused(train, straight, tmp_path, other):
    run = Path(shutil.copytree(straight, tmp_path / "run"))
    train(tmp_path / "other", other)
    shutil.copy(tmp_path / "other" / "last.ckpt", run)
    before = contents(run)
    with pytest.raises(ConfigError, match=rf"last\.ckpt: is of a run with other values \({OTHERS[other]}"):
        train(run)
    assert contents(run) == before


def test_the_state_of_a_run_on_other_data_is_refused(train, straight, data, tmp_path):
    run, changed = Path(shutil.copytree(straight, tmp_path / "run")), Path(shutil.copytree(data, tmp_path / "data"))
    file = changed / "CUHK-PEDES" / "reid_raw.json"
    entries = json.loads(file.read_text(encoding="utf-8"))
    next(entry for entry in entries if entry["split"] == "train")["captions"][0] = "another person"
    file.write_text(json.dumps(entries), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"last\.ckpt: is of a run on other training pairs than those in .*data"):
        train(run, f"data.root={changed}")
    train(run, f"data.root={changed}", "train.allow_changes=[data.root]")


def test_a_change_that_was_allowed_once_stays_allowed_for_the_older_states(train, tmp_path):
    run = tmp_path / "run"
    kill_at_step(train, run, 4)
    changed = ("train.epochs=3", "train.learning_rate=2e-5")
    with contextlib.suppress(Killed), killed_at(1, CheapStep, "__call__", lambda *_: None):
        train(run, *changed, "train.allow_changes=[train.epochs, train.learning_rate]")
    train(run, *changed)
    assert position(run / "last.ckpt") == 9


@pytest.mark.parametrize(
    "changes",
    [
        {"done": 10**9},
        {"done": -1},
        {"epoch": 0},
        {"step": 1},
        {"step": "4"},
        {"config": 5},
        {"loss_scale": {"value": "x"}},
    ],
    ids=str,
)
def test_the_description_of_a_state_is_checked(train, straight, tmp_path, capsys, changes):
    run = Path(shutil.copytree(straight, tmp_path / "run"))
    file = read_tensor_file(run / "last.ckpt")
    entries = [Entry.of(name, np.array(array)) for name, array in file.tensors.items()]
    write_mindspore(run / "last.ckpt", entries, {META: json.dumps(file.description() | changes)})
    train(run)
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning:")]
    assert str(run / "last.ckpt") in warning and "resuming from" in warning


def test_one_run_at_a_time(train, straight, tmp_path):
    run = Path(shutil.copytree(straight, tmp_path / "run"))
    before = contents(run)
    for folder in (run, tmp_path / "new"):
        with RunFolder(folder).locked(), pytest.raises(UserError, match=f"{folder}: another process is changing"):
            train(folder)
    assert contents(run) == before and [p.name for p in (tmp_path / "new").iterdir()] == [".lock"]
    train(tmp_path / "new")
    assert_same_run(tmp_path / "new", straight)


@pytest.mark.parametrize("name", ["last.ckpt", "previous.ckpt", "best_text.ckpt", "results.json", "log.jsonl"])
@pytest.mark.parametrize("resume", ["auto", "null"])
def test_a_new_run_does_not_begin_among_what_another_left(train, straight, tmp_path, name, resume):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(straight / name, run)
    before = contents(run)
    with pytest.raises(ConfigError, match=rf"{run}: holds {name} of earlier runs, but no config\.yaml"):
        train(run, f"train.resume={resume}")
    assert contents(run) == before


def spoil(name: str, old: str, new: str) -> Callable[[Path], object]:
    def change(run: Path) -> None:
        text = (run / name).read_text(encoding="utf-8")
        assert old in text
        (run / name).write_bytes(text.replace(old, new, 1).encode("latin-1"))

    return change


DAMAGED = {
    "a byte in the log": (spoil("log.jsonl", "step", "\xff"), r"log\.jsonl: line 1 is damaged .* take this line out"),
    "a list in the log": (spoil("log.jsonl", "{", "[{}, {"), r"log\.jsonl: line 1 is damaged"),
    "a text in the log": (spoil("log.jsonl", '"step": 1', '"step": "1"'), r"log\.jsonl: line 1 is damaged"),
    "a list": (lambda run: (run / "results.json").write_text("[]"), r"results\.json: is damaged \(content is \[\]"),
    "nothing in it": (lambda run: (run / "results.json").write_text("{}"), r"results\.json: is damaged .* no 'best'"),
    "NaN": (
        spoil("results.json", '"R1": ', '"R1": NaN, "x": '),
        r"results\.json: is damaged .*NaN is not a number of JSON",
    ),
    "a byte": (spoil("results.json", "best", "\xff"), r"results\.json: is damaged"),
    "nested": (lambda run: (run / "results.json").write_text("[" * 10**6), r"results\.json: is damaged"),
    "huge": (
        lambda run: (run / "results.json").write_text(" " * (1 << 25)),
        r"results\.json: is damaged .larger than 16 MiB",
    ),
    "a split": (spoil("results.json", '"val"', '"test"'), r"results\.json: an evaluation has no row of 'val'"),
    "a pipe": (
        lambda run: ((run / "results.json").unlink(), os.mkfifo(run / "results.json")),
        r"results\.json: cannot be read \(it is a folder, pipe or device",
    ),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_log_or_results_is_one_error(train, straight, tmp_path, damage):
    run = Path(shutil.copytree(straight, tmp_path / "run"))
    spoil_it, words = DAMAGED[damage]
    spoil_it(run)
    with pytest.raises(UserError, match=words):
        train(run)
