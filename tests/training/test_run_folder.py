"""The run folder: used ones refused, continuations checked, the log rewound."""

import json

import pytest

from ms_unireid.config import load_config
from ms_unireid.errors import ConfigError, UserError
from ms_unireid.training.run_folder import RunFolder


@pytest.fixture
def config():
    return load_config(None, ["train.learning_rate=1e-3", "model.image_size=[96, 32]"])


@pytest.fixture
def folder(tmp_path, config) -> RunFolder:
    made = RunFolder(tmp_path / "run")
    made.create(config, {"device": "CPU"})
    return made


def lines(folder: RunFolder) -> list[dict]:
    return [json.loads(line) for line in folder.log_file.read_text(encoding="utf-8").splitlines()]


def test_create_writes_config_and_environment(folder, config):
    assert sorted(p.name for p in folder.root.iterdir()) == ["config.yaml", "environment.json"]
    assert load_config(folder.config_file) == config
    assert json.loads((folder.root / "environment.json").read_text(encoding="utf-8")) == {"device": "CPU"}


def test_a_used_folder_is_refused_and_left_alone(folder):
    before = folder.config_file.read_bytes()
    with pytest.raises(ConfigError) as caught:
        folder.check_unused()
    assert f"{folder.root}: holds a run already" in str(caught.value)
    assert f"train.resume={folder.root}" in str(caught.value) and "train.output" in str(caught.value)
    assert folder.config_file.read_bytes() == before


def test_a_folder_that_cannot_be_made(tmp_path, config):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be written"):
        RunFolder(tmp_path / "file" / "run").create(config, {})


def test_the_same_config_and_free_keys_continue(folder):
    folder.check_resumable(load_config(folder.config_file))
    overrides = ["train.output=elsewhere", f"train.resume={folder.root}", "train.log_every=1", "runtime.workers=5"]
    overrides += ["data.root=moved", "eval.splits=[test]"]
    folder.check_resumable(load_config(folder.config_file, overrides))


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.learning_rate=2e-3", "train.learning_rate: 0.001 -> 0.002"),
        ("train.epochs=61", "train.epochs: 60 -> 61"),
        ("eval.selection_split=test", "eval.selection_split: auto -> test"),
        ("train.seed=2", "train.seed: 1 -> 2"),
        ("model.image_size=[96, 48]", "model.image_size: [96, 32] -> [96, 48]"),
        ("data.augment.flip=0", "data.augment.flip: 0.5 -> 0.0"),
        ("objective.gamma=1", "objective.gamma: 3.5 -> 1.0"),
    ],
)
def test_a_changed_value_is_refused_by_name(folder, override, told):
    with pytest.raises(ConfigError) as caught:
        folder.check_resumable(load_config(folder.config_file, [override]))
    assert str(folder.config_file) in str(caught.value) and f"({told})" in str(caught.value)


def test_all_changed_keys_are_listed(folder):
    with pytest.raises(ConfigError) as caught:
        folder.check_resumable(load_config(folder.config_file, ["train.seed=2", "data.batch_size=8"]))
    assert "(data.batch_size: 64 -> 8; train.seed: 1 -> 2)" in str(caught.value)


def test_what_is_no_run_folder_cannot_be_resumed(tmp_path, config):
    with pytest.raises(ConfigError, match="is not a run folder"):
        RunFolder(tmp_path / "nowhere").check_resumable(config)


def test_results_round_trip_to_the_last_digit(folder):
    assert folder.results() == {"best": {}, "evaluations": []}
    results = {"best": {"text": {"R1": 100 / 3}}, "evaluations": [{"epoch": 1}]}
    folder.write_results(results)
    assert folder.results() == results


def test_rewind_drops_later_lines_and_a_torn_one(folder):
    for step in (1, 2, 3):
        folder.log({"kind": "step", "step": step, "loss": step / 3})
    with folder.log_file.open("a", encoding="utf-8") as file:
        file.write('{"kind": "step", "st')
    folder.rewind_log(2)
    assert lines(folder) == [{"kind": "step", "step": 1, "loss": 1 / 3}, {"kind": "step", "step": 2, "loss": 2 / 3}]
    folder.log({"step": 3})
    assert [entry["step"] for entry in lines(folder)] == [1, 2, 3]


def test_rewind_to_the_start_and_without_a_log(folder):
    folder.rewind_log(0)
    assert not folder.log_file.exists()
    folder.log({"step": 1})
    folder.rewind_log(0)
    assert lines(folder) == []


def test_a_log_that_cannot_be_written(folder):
    folder.log_file.mkdir()
    with pytest.raises(UserError, match=r"log\.jsonl: cannot be written"):
        folder.log({"step": 1})


def test_checkpoint_names(folder):
    assert folder.last.name == "last.ckpt"
    assert [folder.best(task).name for task in ("text", "average")] == ["best_text.ckpt", "best_average.ckpt"]
