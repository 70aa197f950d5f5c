"""The runs of a table, each once, and their remaining steps and time."""

import dataclasses
import json

import pytest
from tool_runner import CONFIGS

from ms_unireid.apps.paper.published_tables import paper_rows
from ms_unireid.apps.paper.table_plan import (
    PlannedRun,
    TableRequest,
    estimate,
    operations_per_pair,
    plan_table,
    runs_of,
)
from ms_unireid.config import load_config
from ms_unireid.data.published import PUBLISHED
from ms_unireid.errors import ConfigError
from ms_unireid.training.run_folder import RunFolder


def request(table=2, **values) -> TableRequest:
    return TableRequest(table, CONFIGS, **{"output": CONFIGS.parent / "nowhere", **values})


@pytest.mark.parametrize("table", range(2, 7))
def test_every_table_can_be_planned(table):
    plan = plan_table(request(table))
    assert [line.paper for line in plan] == list(paper_rows(table))
    assert {(run.dataset, run.row) for run in runs_of(plan)} == {(p.trained_on, p.row) for p in paper_rows(table)}
    for run in runs_of(plan):
        assert run.config.data.name == run.dataset and run.config.train.resume == "auto"


def test_lines_share_runs():
    plan = plan_table(request(2, datasets=("rstp_reid",), seeds=(1, 2)))
    assert (len(plan), len(runs_of(plan))) == (12, 12)
    by_task = {line.paper.task: line.runs for line in plan if line.paper.row == "unireid"}
    assert by_task["text"] is not by_task["sketch"] and by_task["text"] == by_task["sketch"] == by_task["fusion"]
    assert [run.config.train.seed for run in by_task["text"]] == [1, 2]


def test_tables_share_folders():
    folders = {}
    for table in (2, 3, 6):
        folders[table] = {str(run.folder.root) for run in runs_of(plan_table(request(table)))}
    assert folders[3] < folders[2] and folders[6] < folders[2]


def test_a_part_of_a_table():
    plan = plan_table(request(2, rows=("dynamic",), datasets=("icfg_pedes",)))
    assert [(line.paper.task, line.paper.row) for line in plan] == [
        (t, "dynamic") for t in ("text", "sketch", "fusion")
    ]


def test_overlays_and_overrides_reach_every_run(tmp_path):
    overlay = tmp_path / "small.yaml"
    overlay.write_text("train: {epochs: 7}\n", encoding="utf-8")
    plan = plan_table(request(2, overlays=(overlay,), overrides=("data.batch_size=4",)))
    assert {(run.config.train.epochs, run.config.data.batch_size) for run in runs_of(plan)} == {(7, 4)}


def test_the_synthetic_data_set_has_all_rows_and_no_published_number():
    plan = plan_table(request(2, datasets=("synthetic",)))
    assert len(plan) == 12 and len(runs_of(plan)) == 6
    assert {(line.paper.dataset, line.paper.trained_on) for line in plan} == {("synthetic", "synthetic")}
    assert all(value != value for line in plan for value in line.paper.published.values())
    assert {run.config.model.sizes.vision.width for run in runs_of(plan)} == {96}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"table": 9}, "table 9: expected one of 2, 3, 4, 5, 6"),
        ({"rows": ("wdynamic",)}, "--rows wdynamic: expected some of text, tasks, dynamic, unireid, sketch, fusion"),
        ({"table": 3, "rows": ("sketch",)}, "--rows sketch: expected some of text, unireid for this table"),
        ({"table": 4, "datasets": ("rstp_reid",)}, "--datasets rstp_reid: expected some of icfg_pedes, synthetic"),
    ],
)
def test_names_that_are_not_in_the_table(values, words):
    with pytest.raises(ConfigError, match=words):
        plan_table(request(**{"table": 2, **values}))


# Steps and time left.


def planned(tmp_path, *overrides) -> PlannedRun:
    overrides = [f"data.root={tmp_path}", f"train.output={tmp_path / 'run'}", *overrides]
    return PlannedRun("cuhk_pedes", "unireid", load_config(CONFIGS / "tri_cuhk_pedes/unireid.yaml", overrides))


def test_steps_of_the_published_size_if_the_data_set_is_missing(tmp_path):
    found = estimate(planned(tmp_path), rate=1e12)
    assert found.steps == found.steps_left == 60 * -(-PUBLISHED["cuhk_pedes"]["train"]["captions"] // 64)
    assert found.seconds == pytest.approx(found.steps * 64 * operations_per_pair(planned(tmp_path).config) / 1e12)
    unknown = estimate(planned(tmp_path, "data.sampler=distinct_identities"), rate=1e12)
    assert (unknown.steps, unknown.seconds) == (None, None)


def test_time_from_the_runs_own_log(tmp_path):
    run = planned(tmp_path)
    run.folder.root.mkdir()
    entries = [{"kind": "step", "step": 10 * (i + 1), "pairs_per_second": speed} for i, speed in enumerate([1, 32, 64])]
    text = "".join(json.dumps(entry) + "\n" for entry in entries)
    run.folder.log_file.write_text(text + '{"kind": "st', encoding="utf-8")
    found = estimate(run)
    assert found.steps_left == found.steps - 30
    assert found.seconds == pytest.approx(found.steps_left * 64 / 48)  # the first entry holds the compilation


def test_a_finished_run_costs_nothing(tmp_path):
    run = planned(tmp_path)
    RunFolder(run.folder.root).root.mkdir()
    found = {"epoch": 60, "splits": {"val": []}}
    results = {"best": {"average": {"R1": 1.0, **found}}, "evaluations": [found], "selection_split": "val"}
    run.folder.write_results(results)
    assert (estimate(run).steps_left, estimate(run).seconds, estimate(run).basis) == (0, 0, "finished")
    run.folder.write_results({**results, "evaluations": [{**found, "epoch": 59}]})
    assert estimate(run).steps_left > 0


def test_operations_of_a_pair():
    """Against a count of the whole tower's products by hand: two pictures and a caption, three passes."""
    config = load_config(CONFIGS / "base.yaml")

    def tower(tokens, width, layers):
        per_layer = tokens * width * (3 * width + width + 8 * width) + 2 * tokens * tokens * width
        return 2 * layers * per_layer

    expected = 3 * (2 * tower(193, 768, 12) + tower(77, 512, 12))
    assert operations_per_pair(config) == expected
    text = dataclasses.replace(config, objective=dataclasses.replace(config.objective, tasks=("text",)))
    assert operations_per_pair(text) == 3 * (tower(193, 768, 12) + tower(77, 512, 12))
    cached = dataclasses.replace(config, train=dataclasses.replace(config.train, cache_chunk=8))
    assert operations_per_pair(cached) == expected / 3 * 4
