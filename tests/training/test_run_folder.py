"""The run folder: used folders, resumed configs, rotated states, rewound log and results."""

import json
from dataclasses import replace

import pytest
import yaml

from ms_unireid.config import TASKS, load_config, to_dict
from ms_unireid.errors import ConfigError, UserError
from ms_unireid.training.run_folder import RunFolder, improved, read_log, resumable_keys, selection_scores

EVALUATION = {"epoch": 1, "splits": {"val": []}}


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


def test_a_used_folder_is_an_error_and_stays_unchanged(folder):
    before = folder.config_file.read_bytes()
    with pytest.raises(ConfigError) as caught:
        folder.check_unused()
    assert f"{folder.root}: already holds a run" in str(caught.value)
    assert f"train.resume={folder.root}" in str(caught.value) and "train.output" in str(caught.value)
    assert folder.config_file.read_bytes() == before


@pytest.mark.parametrize("name", ["seed_1", "seeds.json", "table_2.json", "bad_batch.json"])
def test_folders_of_several_runs_and_leftovers_are_used_too(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match=rf"{tmp_path}: holds {name} of earlier runs"):
        RunFolder(tmp_path).check_unused()


def test_a_folder_with_files_of_the_user_is_unused(tmp_path):
    (tmp_path / "notes.txt").touch()
    RunFolder(tmp_path).check_unused()


def test_a_file_or_a_broken_link_is_no_folder(tmp_path, folder):
    (tmp_path / "file").touch()
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "link").symlink_to(folder.root)
    for name, words in (("file", "is no folder"), ("broken", "is no folder"), ("link", "already holds a run")):
        with pytest.raises(ConfigError, match=rf"{tmp_path / name}: {words}"):
            RunFolder(tmp_path / name).check_unused()


@pytest.mark.parametrize("given", ["rum", "run/last.ckpt", ""])
def test_a_mistyped_run_names_the_nearest(tmp_path, folder, given):
    with pytest.raises(ConfigError, match=rf"is not a run folder .*; did you mean {folder.root}\?"):
        RunFolder(tmp_path / given).check_run()


def test_a_folder_that_cannot_be_made(tmp_path, config):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be written"):
        RunFolder(tmp_path / "file" / "run").create(config, {})


def test_the_same_config_and_resumable_keys_continue(folder):
    assert folder.check_resumable(load_config(folder.config_file)) == {}
    overrides = ["train.output=elsewhere", "train.resume=auto", "train.log_every=1", "runtime.workers=5"]
    overrides += ["data.root=moved", "eval.splits=[test]", "train.tensorboard=true", "train.checkpoint_every=3"]
    overrides += ["runtime.device=GPU", "runtime.device_id=1", "runtime.graph_mode=false", "runtime.prefetch=1"]
    overrides += ["runtime.max_overflows=3", "train.seeds=[1, 2]", "train.allow_changes=[train.epochs]"]
    overrides += [
        "data.captions=c.json",
        "data.trials=t.json",
        "data.annotations=a.csv",
        "eval.missing_shares=[0.5]",
        "eval.multi_query_photos=1",
    ]
    overrides += ["runtime.decoded_cache=pixels", "train.profile_steps=[3, 4]", "runtime.encoder=mindspore"]
    assert resumable_keys() == {text.partition("=")[0] for text in overrides}
    assert folder.check_resumable(load_config(folder.config_file, overrides)) == {}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.learning_rate=2e-3", "train.learning_rate: 0.001 -> 0.002"),
        ("train.epochs=61", "train.epochs: 60 -> 61"),
        ("eval.selection_split=test", "eval.selection_split: auto -> test"),
        ("train.seed=2", "train.seed: 1 -> 2"),
        ("model.image_size=[96, 48]", "model.image_size: [96, 32] -> [96, 48]"),
        ("data.augment.flip=0", "data.augment.flip: 0.5 -> 0.0"),
        ("objective.gamma=1", "objective.gamma: 3.5 -> 1.0"),
        ("runtime.precision=mixed", "runtime.precision: fp32 -> mixed"),
        ("runtime.loss_scale=static", "runtime.loss_scale: dynamic -> static"),
        ("runtime.initial_loss_scale=2", "runtime.initial_loss_scale: 65536.0 -> 2.0"),
        ("runtime.loss_scale_window=5", "runtime.loss_scale_window: 2000 -> 5"),
        ("runtime.recompute=true", "runtime.recompute: False -> True"),
        ("runtime.deterministic=true", "runtime.deterministic: False -> True"),
    ],
)
def test_a_changed_value_is_an_error_with_its_name(folder, override, words):
    with pytest.raises(ConfigError) as caught:
        folder.check_resumable(load_config(folder.config_file, [override]))
    assert str(folder.config_file) in str(caught.value) and f"({words})" in str(caught.value)


def test_all_changed_keys_are_listed(folder):
    with pytest.raises(ConfigError) as caught:
        folder.check_resumable(load_config(folder.config_file, ["train.seed=2", "data.batch_size=8"]))
    assert "(data.batch_size: 64 -> 8; train.seed: 1 -> 2)" in str(caught.value)


def test_the_error_names_the_way_to_allow_changes(folder):
    overrides = ["train.seed=2", "data.batch_size=8", "train.allow_changes=[train.seed]"]
    with pytest.raises(ConfigError) as caught:
        folder.check_resumable(load_config(folder.config_file, overrides))
    assert "(data.batch_size: 64 -> 8)" in str(caught.value)
    assert "train.allow_changes=[data.batch_size,train.seed]" in str(caught.value)


def test_an_unknown_key_cannot_be_allowed(folder):
    with pytest.raises(ConfigError, match=r"train\.allow_changes: 'train\.seeed' is not a config key"):
        folder.check_resumable(load_config(folder.config_file, ["train.allow_changes=[train.seeed]"]))


def test_allowed_changes_are_logged_and_saved_in_the_config(folder, config):
    allowed = "train.allow_changes=[train.epochs,model.image_size,train.seed]"
    changed = load_config(
        folder.config_file, ["train.epochs=61", "model.image_size=[96, 48]", "train.log_every=7", allowed]
    )
    changes = folder.check_resumable(changed)
    assert changes == {"model.image_size": ([96, 32], [96, 48]), "train.epochs": (60, 61)}
    folder.accept(changes, 5)
    (entry,) = lines(folder)
    noted = {"model.image_size": [[96, 32], [96, 48]], "train.epochs": [60, 61]}
    assert entry == {"kind": "config", "step": 5, "changes": noted}
    model, train = replace(config.model, image_size=(96, 48)), replace(config.train, epochs=61)
    assert load_config(folder.config_file) == replace(config, model=model, train=train)
    assert folder.check_resumable(load_config(folder.config_file)) == {}


def test_without_changes_nothing_is_written(folder):
    before = folder.config_file.stat().st_mtime_ns
    folder.accept({}, 5)
    assert folder.config_file.stat().st_mtime_ns == before and not folder.log_file.exists()


def test_a_folder_of_an_older_version_can_be_resumed(folder, config):
    values = to_dict(config)
    for section, key in (("train", "checkpoint_every"), ("train", "clip_norm"), ("runtime", "precision")):
        del values[section][key]
    folder.config_file.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert folder.check_resumable(config) == {}
    with pytest.raises(ConfigError, match=r"train\.clip_norm: None -> 1\.0"):
        folder.check_resumable(load_config(folder.config_file, ["train.clip_norm=1"]))


def write_state(folder: RunFolder, content: str) -> None:
    folder.next.write_text(content, encoding="utf-8")
    folder.rotate()


def test_a_new_state_moves_the_last_one_back(folder):
    assert not folder.has_state()
    write_state(folder, "1")
    assert folder.has_state() and not folder.previous.exists()
    write_state(folder, "2")
    write_state(folder, "3")
    assert (folder.last.read_text(), folder.previous.read_text(), folder.next.exists()) == ("3", "2", False)


def test_a_kill_between_the_renames_leaves_a_state(folder):
    write_state(folder, "1")
    folder.last.rename(folder.previous)
    assert folder.has_state()
    folder.fall_back()
    assert folder.last.read_text() == "1" and not folder.previous.exists()


def test_states_that_cannot_be_renamed(folder):
    folder.next.write_text("", encoding="utf-8")
    folder.last.mkdir()
    (folder.last / "file").touch()
    folder.previous.mkdir()
    (folder.previous / "file").touch()
    with pytest.raises(UserError, match=r"last\.ckpt: cannot be replaced"):
        folder.rotate()


def test_a_folder_without_a_run_cannot_be_resumed(tmp_path, config):
    with pytest.raises(ConfigError, match="is not a run folder"):
        RunFolder(tmp_path / "nowhere").check_resumable(config)


def test_results_round_trip_to_the_last_digit(folder):
    assert folder.results() == {"best": {}, "evaluations": []}
    results = {"best": {"text": {"R1": 100 / 3, **EVALUATION}}, "evaluations": [EVALUATION]}
    folder.write_results(results)
    assert folder.results() == results


def test_damaged_results(folder):
    folder.results_file.write_text('{"best"', encoding="utf-8")
    with pytest.raises(UserError, match=r"results\.json: is damaged .* delete it"):
        folder.results()


def test_rewind_drops_later_lines_and_a_torn_one(folder):
    for step in (1, 2, 3):
        folder.log({"kind": "step", "step": step, "loss": step / 3})
    with folder.log_file.open("a", encoding="utf-8") as file:
        file.write('{"kind": "step", "st')
    folder.rewind(2, 1)
    assert lines(folder) == [{"kind": "step", "step": 1, "loss": 1 / 3}, {"kind": "step", "step": 2, "loss": 2 / 3}]
    folder.log({"step": 3})
    assert [entry["step"] for entry in lines(folder)] == [1, 2, 3]


def test_a_torn_line_of_the_log_is_skipped(folder):
    assert read_log(folder.log_file) == []
    folder.log({"kind": "step", "step": 1, "loss": 1 / 3})
    with folder.log_file.open("a", encoding="utf-8") as file:
        file.write('{"kind": "step", "st')
    assert read_log(folder.log_file) == [{"kind": "step", "step": 1, "loss": 1 / 3}]


def test_the_scores_that_choose_the_best_checkpoints():
    scores = {"text": 10.0, "sketch": 20.0, "fusion": 60.0}
    rows = [{"task": task, "protocol": "exclude_source_photo", "R1": R1} for task, R1 in scores.items()]
    rows.append({"task": "text", "protocol": "full_gallery", "R1": 40.0})
    assert selection_scores(rows, "exclude_source_photo") == {**scores, "average": 30.0}
    found = selection_scores(rows, "full_gallery")
    assert found == {"text": 40.0, "sketch": 20.0, "fusion": 60.0, "average": 40.0}
    assert improved(found, {}) == ["text", "sketch", "fusion", "average"]
    earlier = {"text": 40.0, "sketch": 19.0, "fusion": 61.0, "average": 39.0}
    assert improved(found, {task: {"R1": R1} for task, R1 in earlier.items()}) == ["sketch", "average"]


def test_a_task_without_a_match_has_no_part_in_the_best_average():
    protocol = "exclude_source_photo"
    rows = [{"task": task, "protocol": protocol, "R1": R1} for task, R1 in zip(TASKS, (None, 20.0, 60.0), strict=True)]
    found = selection_scores(rows, protocol)
    assert found == {"text": None, "sketch": 20.0, "fusion": 60.0, "average": 40.0}
    assert improved(found, {}) == ["sketch", "fusion", "average"]
    nothing = selection_scores([{**row, "R1": None} for row in rows], protocol)
    assert nothing["average"] == 0 and improved(nothing, {}) == ["average"]


def test_rewind_to_the_start_and_without_a_log(folder):
    folder.rewind(0, 0)
    assert not folder.log_file.exists()
    folder.log({"kind": "step", "step": 1})
    folder.rewind(0, 0)
    assert lines(folder) == []


def test_rewind_keeps_evaluations_that_count_and_config_changes(folder):
    folder.write_results({"best": {}, "evaluations": [EVALUATION]})
    evaluations = [{"kind": "evaluation", "step": 2 * epoch, **EVALUATION, "epoch": epoch} for epoch in (1, 2)]
    change = {"kind": "config", "step": 9, "changes": {}}
    for entry in (*evaluations, change):
        folder.log(entry)
    folder.rewind(4, 2)
    assert lines(folder) == [evaluations[0], change]


def test_rewind_forgets_evaluations_of_epochs_that_are_trained_again(folder):
    third = {**EVALUATION, "epoch": 3}
    best = {"text": {"R1": 1.0, **EVALUATION}, "sketch": {"R1": 2.0, **third}}
    folder.write_results({"best": best, "evaluations": [EVALUATION, third], "selection_split": "val"})
    folder.rewind(25, 2)
    assert folder.results() == {
        "best": {"text": best["text"]},
        "evaluations": [EVALUATION],
        "selection_split": "val",
    }


def test_rewind_removes_files_that_a_kill_left_unfinished(folder):
    leftovers = (".last.partial.ckpt", ".best_text.partial.ckpt", ".log.partial.jsonl", folder.next.name)
    for name in (*leftovers, ".kept", "best_text.ckpt"):
        (folder.root / name).touch()
    folder.rewind(0, 0)
    names = {p.name for p in folder.root.iterdir()}
    assert names == {".kept", "best_text.ckpt", "config.yaml", "environment.json"}


def test_a_log_that_cannot_be_written(folder):
    folder.log_file.mkdir()
    with pytest.raises(UserError, match=r"log\.jsonl: cannot be written"):
        folder.log({"step": 1})


def test_checkpoint_names(folder):
    assert folder.last.name == "last.ckpt"
    assert [folder.best(task).name for task in ("text", "average")] == ["best_text.ckpt", "best_average.ckpt"]
