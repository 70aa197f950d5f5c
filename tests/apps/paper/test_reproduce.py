"""A table is filled by its runs only; finished work is not repeated."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from PIL import Image
from tool_runner import CONFIGS

from ms_unireid.apps.paper import reproduce as module
from ms_unireid.apps.paper.reproduce import CheckpointChoice, reproduce
from ms_unireid.apps.paper.table_plan import TableRequest
from ms_unireid.config import Config, DataConfig
from ms_unireid.errors import ConfigError
from ms_unireid.evaluation.metrics import RetrievalMetrics
from ms_unireid.runtime import Processes
from ms_unireid.training.run_folder import RunFolder

PAPER = [("text", "exclude_source_photo"), ("sketch", "exclude_source_photo"), ("fusion", "exclude_source_photo")]


class Stopped(Exception):
    pass


class Evaluated:
    def __init__(self, results):
        self.results = results


@pytest.fixture
def evaluations(monkeypatch) -> list[tuple[str, str]]:
    """Replace encoding: the metrics are the number in the checkpoint file; list the evaluated files."""
    seen = []

    class Evaluator:
        def __init__(self, path, overrides):
            self.path = path

        def evaluate(self, split, data):
            seen.append((str(self.path), data.name))
            value = float(self.path.read_text(encoding="utf-8"))
            metrics = RetrievalMetrics(value, value + 1, value + 2, value / 2, value / 4, 0.1, 10, 0)
            keys = [(t, "ten_trials") for t, _ in PAPER] if data.name == "pku_sketch" else PAPER
            return Evaluated({**dict.fromkeys(keys, metrics), ("text", "full_gallery"): metrics})

    monkeypatch.setattr(module, "CheckpointEvaluator", Evaluator)
    return seen


class Trainer:
    """Replaces training: writes checkpoints that contain a number; can be stopped at a run."""

    def __init__(self, stop_at: int | None = None):
        self.trained: list[str] = []
        self.stop_at = stop_at

    def __call__(self, config: Config) -> dict:
        if len(self.trained) + 1 == self.stop_at:
            raise Stopped
        folder = RunFolder(config.train.output)
        folder.create(config, {})
        self.trained.append("/".join(folder.root.parts[-3:]))
        for place, task in enumerate(("text", "sketch", "fusion", "average")):
            number = 10 * config.train.seed + place
            folder.best(task).write_text(str(number), encoding="utf-8")
        folder.last.write_text("99", encoding="utf-8")
        metrics = asdict(RetrievalMetrics(50.0, 60.0, 70.0, 40.0, 30.0, 0.1, 10, 0))
        found = {
            "epoch": config.train.epochs,
            "splits": {"test": [{"task": t, "protocol": p, **metrics} for t, p in PAPER]},
        }
        average = {"R1": 13.0, **found}
        folder.write_results({"best": {"average": average}, "evaluations": [found], "selection_split": "test"})
        return {}


def request(output: Path, table=2, **values) -> TableRequest:
    return TableRequest(table, CONFIGS, output, **{"datasets": ("rstp_reid",), "rows": ("tasks", "unireid"), **values})


def run(asked: TableRequest, trainer, choice=None, processes=None):
    messages = []
    lines = reproduce(asked, choice or CheckpointChoice(), trainer, messages.append, processes or Processes())
    return lines, messages


def test_each_run_once_and_every_line_from_its_own_tasks_best(tmp_path, evaluations):
    trainer = Trainer()
    lines, messages = run(request(tmp_path, seeds=(1, 2)), trainer)
    assert trainer.trained == [f"rstp_reid/{row}/seed_{seed}" for row in ("tasks", "unireid") for seed in (1, 2)]
    firsts = {(line.paper.task, line.paper.row): line.cells[0].values for line in lines}
    assert firsts == {
        (task, row): (10.0 + place, 20.0 + place)
        for place, task in enumerate(("text", "sketch", "fusion"))
        for row in ("tasks", "unireid")
    }
    assert [cell.metric for cell in lines[0].cells] == ["R1", "mAP", "mINP"]
    with Image.open(tmp_path / "table_2.png") as curves:
        assert curves.size == (1500, 400)  # a panel for each task
    assert (tmp_path / "table_2.tex").exists() and messages[0] == "run 1 of 4: rstp_reid, tasks, seed 1: training"
    stored = json.loads((tmp_path / "table_2.json").read_text(encoding="utf-8"))
    assert stored["lines"][0]["metrics"]["R1"]["values"] == [10.0, 20.0]


def test_a_restart_repeats_nothing_that_finished(tmp_path, evaluations):
    first, second = Trainer(stop_at=3), Trainer()
    with pytest.raises(Stopped):
        run(request(tmp_path, seeds=(1, 2)), first)
    assert not list(tmp_path.glob("table_2*"))
    run(request(tmp_path, seeds=(1, 2)), second)
    assert [*first.trained, *second.trained] == sorted({*first.trained, *second.trained})
    count = len(evaluations)
    again, third = run(request(tmp_path, seeds=(1, 2)), unused := Trainer())
    assert not unused.trained and len(evaluations) == count and third[0].endswith("finished")
    assert again[0].cells[0].values == (10.0, 20.0)


def test_a_changed_checkpoint_is_evaluated_again(tmp_path, evaluations):
    run(request(tmp_path), Trainer())
    before = len(evaluations)
    (tmp_path / "rstp_reid/tasks/seed_1/best_text.ckpt").write_text("55", encoding="utf-8")
    lines, _ = run(request(tmp_path), Trainer())
    assert len(evaluations) == before + 1 and lines[0].cells[0].values == (55.0,)
    kept = tmp_path / "rstp_reid/tasks/seed_1/evaluations/rstp_reid_test_best_text.json"
    whole = kept.read_text(encoding="utf-8")
    for count, damaged in enumerate(['{"rows"', "[]", whole.replace("55.0", '"55"'), whole.replace("55.0", "NaN")], 2):
        kept.write_text(damaged, encoding="utf-8")
        run(request(tmp_path), Trainer())
        assert len(evaluations) == before + count


@pytest.mark.parametrize("name", ["last.ckpt", "results.json"])
@pytest.mark.parametrize("place", ["", "rstp_reid/tasks/seed_1"])
def test_what_is_left_of_another_run_is_neither_used_nor_overwritten(tmp_path, evaluations, name, place):
    left = tmp_path / place / name
    left.parent.mkdir(parents=True, exist_ok=True)
    left.write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"{left.parent}: holds {name} of earlier runs"):
        run(request(tmp_path), trainer := Trainer())
    assert not trainer.trained and left.read_text(encoding="utf-8") == "{}"


def test_a_finished_run_of_other_values_fills_no_line(tmp_path, evaluations):
    asked = request(tmp_path, rows=("unireid",))
    run(asked, Trainer())
    with pytest.raises(ConfigError, match=r"other values \(train\.weight_decay: 4e-05 -> 0\.1\)"):
        run(request(tmp_path, rows=("unireid",), overrides=("train.weight_decay=0.1",)), Trainer())


@pytest.mark.parametrize(("select", "value"), [("average", 13.0), ("last", 99.0)])
def test_other_checkpoints_may_be_selected(tmp_path, evaluations, select, value):
    lines, _ = run(request(tmp_path), Trainer(), CheckpointChoice(select=select))
    assert {line.cells[0].values for line in lines} == {(value,)}


def test_given_checkpoints_are_evaluated_and_nothing_is_trained(tmp_path, evaluations):
    given = tmp_path / "given"
    (given / "rstp_reid").mkdir(parents=True)
    (given / "rstp_reid" / "unireid.pth").write_text("70", encoding="utf-8")
    trainer = Trainer()
    lines, _ = run(request(tmp_path / "out", seeds=(1,)), trainer, CheckpointChoice(checkpoints=given))
    assert not trainer.trained
    found = {(line.paper.task, line.paper.row): (line.cells[0].values, line.missing) for line in lines}
    assert found["text", "unireid"] == ((70.0,), "")
    assert found["text", "tasks"] == ((), "no checkpoint for seed 1")
    assert [p.name for p in given.rglob("*")] == ["rstp_reid", "unireid.pth"]


def test_the_folder_of_runs_may_be_given(tmp_path, evaluations):
    run(request(tmp_path / "trained", rows=("unireid",)), Trainer())
    lines, _ = run(
        request(tmp_path / "out", rows=("unireid",)), Trainer(), CheckpointChoice(checkpoints=tmp_path / "trained")
    )
    assert [line.cells[0].values for line in lines] == [(10.0,), (11.0,), (12.0,)]


def test_table_six_is_evaluated_on_another_data_set(tmp_path, evaluations):
    asked = request(tmp_path, 6, datasets=None, rows=None)
    with pytest.raises(ConfigError, match=r"table 6: is evaluated on pku_sketch; .*--target pku_sketch=FOLDER"):
        run(asked, Trainer())
    targets = {"pku_sketch": DataConfig(name="pku_sketch", root=str(tmp_path))}
    lines, _ = run(asked, trainer := Trainer(), CheckpointChoice(targets=targets))
    assert trainer.trained == ["cuhk_pedes/unireid/seed_1"]
    assert {dataset for _, dataset in evaluations} == {"pku_sketch"}
    assert [cell.metric for cell in lines[0].cells] == ["R1", "R5", "R10", "mAP", "mINP"]


def test_only_the_first_process_evaluates(tmp_path, evaluations):
    lines, _ = run(request(tmp_path), trainer := Trainer(), processes=Processes(1, 2))
    assert lines == [] and not evaluations and trainer.trained and not list(tmp_path.glob("table_2*"))
