"""Several seeds: which runs are trained, kept or an error; mean and deviation; once through the tool."""

import dataclasses
import json
import math
import re
from pathlib import Path

import pytest
from tool_runner import load_tool, tensors, train_arguments

from ms_unireid.config import Config, load_config
from ms_unireid.errors import ConfigError, Interrupted
from ms_unireid.evaluation.metrics import METRICS
from ms_unireid.runtime import Processes
from ms_unireid.training.run_folder import RunFolder
from ms_unireid.training.seeds import report_seeds, seeds_markdown, train_seeds

ROWS = (("text", "exclude_source_photo"), ("sketch", "exclude_source_photo"), ("text", "full_gallery"))


def result(score: float, epoch: int = 4, last: int = 5, splits: tuple[str, ...] = ("val", "test")) -> dict:
    """Return contents of results.json: `score` at the best average, another one at the last epoch."""
    best = {split: [_row(task, protocol, score) for task, protocol in ROWS] for split in splits}
    evaluations = [{"epoch": epoch, "seconds": 1.0, "splits": best}, {"epoch": last, "seconds": 1.0, "splits": {}}]
    average = {"checkpoint": "best_average.ckpt", "epoch": epoch, "R1": score, "splits": best}
    return {"best": {"average": average}, "evaluations": evaluations, "selection_split": "val"}


def _row(task: str, protocol: str, score: float) -> dict:
    shifted = {metric: score + shift for shift, metric in enumerate(METRICS)}
    return {"task": task, "protocol": protocol, **shifted, "chance_R1": 1.0, "queries": 9, "queries_without_match": 0}


def config_of(root: Path, *overrides: str) -> Config:
    return load_config(None, [f"train.output={root}", "train.epochs=5", "train.seeds=[3,1,2]", *overrides])


class Trained:
    """Replaces the trainer: writes a run folder and returns a score that depends on the seed."""

    def __init__(self, stop_at: int | None = None):
        self.configs: list[Config] = []
        self.stop_at = stop_at

    def __call__(self, config: Config) -> dict:
        self.configs.append(config)
        folder = RunFolder(config.train.output)
        if not folder.holds_run():
            folder.create(config, {})
        if config.train.seed == self.stop_at:
            raise Interrupted(15, "resume with train.resume=elsewhere")
        results = result(50.0 + config.train.seed)
        folder.write_results(results)
        return results

    @property
    def seeds(self) -> list[int]:
        return [config.train.seed for config in self.configs]


# 1. Which runs are trained.


def test_one_run_per_seed_in_its_own_folder(tmp_path):
    trained, config = Trained(), config_of(tmp_path / "out", "train.learning_rate=2e-4")
    report = train_seeds(config, trained)
    assert trained.seeds == report["seeds"] == [3, 1, 2]
    for run in trained.configs:
        assert run.train.output == str(tmp_path / "out" / f"seed_{run.train.seed}") and run.train.seeds is None
        same = {"seed": run.train.seed, "output": run.train.output, "seeds": None}
        assert run == dataclasses.replace(config, train=dataclasses.replace(config.train, **same))
    expected = ["seed_1", "seed_2", "seed_3", "seeds.json", "seeds.md"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == expected
    assert json.loads((tmp_path / "out" / "seeds.json").read_text(encoding="utf-8")) == report
    assert (tmp_path / "out" / "seeds.md").read_text(encoding="utf-8") == seeds_markdown(report)


def test_an_interrupted_series_trains_only_the_missing_seeds(tmp_path):
    with pytest.raises(Interrupted, match=r"in seed 1; repeat the command with train\.resume=auto") as caught:
        train_seeds(config_of(tmp_path), Trained(stop_at=1))
    assert caught.value.signal_number == 15 and not (tmp_path / "seeds.json").exists()
    trained = Trained()
    report = train_seeds(config_of(tmp_path, "train.resume=auto"), trained)
    assert trained.seeds == [1, 2] and all(run.train.resume == "auto" for run in trained.configs)
    assert report["splits"]["val"][0]["R1"]["values"] == [53.0, 51.0, 52.0]


def test_a_run_stopped_before_its_last_evaluation_is_not_finished(tmp_path):
    train_seeds(config_of(tmp_path), Trained())
    RunFolder(tmp_path / "seed_2").write_results(result(10.0, epoch=3, last=4))
    trained = Trained()
    train_seeds(config_of(tmp_path, "train.resume=auto"), trained)
    assert trained.seeds == [2]


def test_seeds_can_be_added(tmp_path):
    train_seeds(config_of(tmp_path), Trained())
    trained = Trained()
    report = train_seeds(config_of(tmp_path, "train.seeds=[3,1,2,7]", "train.resume=auto"), trained)
    assert trained.seeds == [7] and report["seeds"] == [3, 1, 2, 7]


# 2. Errors before anything is trained.


@pytest.mark.parametrize("resume", ["null", "auto"])
def test_an_output_that_holds_a_single_run(tmp_path, resume):
    config = config_of(tmp_path, f"train.resume={resume}")
    RunFolder(tmp_path).create(config, {})
    trained = Trained()
    with pytest.raises(ConfigError, match=r"holds a single run.*choose another train\.output"):
        train_seeds(config, trained)
    assert trained.seeds == []


def test_a_used_seed_folder_without_resume(tmp_path):
    train_seeds(config_of(tmp_path, "train.seeds=[2]"), Trained())
    trained = Trained()
    with pytest.raises(ConfigError, match=r"seed_2: already holds a run; resume it with train\.resume=auto"):
        train_seeds(config_of(tmp_path), trained)
    assert trained.seeds == []


def test_a_finished_run_with_other_values(tmp_path):
    train_seeds(config_of(tmp_path, "train.seeds=[2]"), Trained())
    trained = Trained()
    with pytest.raises(ConfigError, match=r"seed_2.*train\.learning_rate: 1e-05 -> 0\.002"):
        train_seeds(config_of(tmp_path, "train.resume=auto", "train.learning_rate=2e-3"), trained)
    assert trained.seeds == []


# 3. The numbers.


def test_mean_and_sample_deviation():
    report = report_seeds({1: result(50.0, 3), 2: result(53.0, 5), 5: result(51.5, 4)})
    assert report["runs"]["2"] == {"folder": "seed_2", "epoch": 5, "average_R1": 53.0}
    assert list(report["splits"]) == ["val", "test"] and len(report["splits"]["val"]) == 3
    row = report["splits"]["test"][2]
    assert (row["task"], row["protocol"]) == ("text", "full_gallery")
    assert row["R5"]["values"] == [51.0, 54.0, 52.5] and row["R5"]["mean"] == pytest.approx(52.5)
    assert row["R5"]["standard_deviation"] == pytest.approx(1.5)  # 1.22 if divided by n


def cells_of(text: str) -> list[list[str]]:
    """Read the cells below the header of the first table."""
    rows = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_a_row_without_a_match_is_a_dash():
    unknown = result(50.0)
    unknown["best"]["average"]["splits"]["val"][0]["R1"] = None
    report = report_seeds({1: unknown, 2: result(53.0)})
    assert report["splits"]["val"][0]["R1"] == {"mean": 53.0, "standard_deviation": None, "values": [None, 53.0]}
    assert cells_of(seeds_markdown(report_seeds({1: unknown})))[0][2] == "-"


def test_one_seed_has_no_deviation():
    report = report_seeds({4: result(50.0)})
    assert report["splits"]["val"][0]["R1"] == {"mean": 50.0, "standard_deviation": None, "values": [50.0]}
    text = seeds_markdown(report)
    assert (
        "a single run" in text
        and "±" not in text
        and cells_of(text)[0][:3] == ["T->R", "exclude_source_photo", "50.00"]
    )


def test_markdown_shows_seeds_epochs_and_spread():
    text = seeds_markdown(report_seeds({1: result(50.0, 3), 2: result(52.0, 5)}))
    assert text.startswith("Seeds 1, 2: mean ± sample standard deviation")
    assert "each at its best average R1 on val (epochs 3, 5)" in text
    assert "**val**" in text
    assert cells_of(text)[1][:3] == ["S->R", "exclude_source_photo", f"51.00 ± {math.sqrt(2):.2f}"]
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len(tables) == 2 * (2 + 3) and {line.count("|") for line in tables} == {3 + len(METRICS)}


def test_a_split_missing_in_one_run_is_left_out():
    report = report_seeds({1: result(50.0), 2: result(52.0, splits=("val",))})
    assert list(report["splits"]) == ["val"]


def test_only_the_first_process_writes_the_report(tmp_path):
    trained = Trained()
    assert train_seeds(config_of(tmp_path), trained, Processes(rank=1, size=2)) == {}
    assert trained.seeds == [3, 1, 2] and not (tmp_path / "seeds.json").exists()


# 4. Through the tool.


def scores_of(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))["best"]["average"]["splits"]


@pytest.mark.exhaustive
def test_the_tool_trains_each_seed_as_a_separate_run(data, tmp_path, capsys):
    short = ("train.epochs=1", "eval.splits=[val]", "runtime.graph_mode=false")
    arguments = train_arguments(data, tmp_path / "out", *short, "train.seeds=[1,2]")
    load_tool("train.py").main(arguments)
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "out" / "seeds.md").read_text(encoding="utf-8")
    load_tool("train.py").main(train_arguments(data, tmp_path / "alone", *short, "train.seed=2"))
    second = tmp_path / "out" / "seed_2"
    assert scores_of(second / "results.json") == scores_of(tmp_path / "alone" / "results.json")
    assert tensors(second / "last.ckpt") == tensors(tmp_path / "alone" / "last.ckpt")
    assert tensors(second / "last.ckpt") != tensors(tmp_path / "out" / "seed_1" / "last.ckpt")
    report = json.loads((tmp_path / "out" / "seeds.json").read_text(encoding="utf-8"))
    values = [scores_of(tmp_path / "out" / f"seed_{seed}" / "results.json")["val"][0]["R1"] for seed in (1, 2)]
    assert report["splits"]["val"][0]["R1"]["values"] == values
    capsys.readouterr()
    load_tool("train.py").main([*arguments, "train.resume=auto"])
    assert capsys.readouterr().out == printed
    with pytest.raises(ConfigError, match=re.escape(f"{tmp_path / 'alone'}: holds a single run")):
        load_tool("train.py").main(train_arguments(data, tmp_path / "alone", *short, "train.seeds=[1,2]"))
