"""The published numbers, and that every row of them has a config that says so."""

import math
from pathlib import Path

import pytest
from tool_runner import CONFIGS

from ms_unireid.config import Config, load_config, to_dict
from ms_unireid.errors import ConfigError
from ms_unireid.evaluation.paper_tables import paper_rows, row_labels, table_numbers
from ms_unireid.evaluation.questions import TASK_SYMBOLS
from ms_unireid.training.table_plan import CONFIG_FOLDERS

ROWS = sorted({(line.trained_on, line.row) for table in table_numbers() for line in paper_rows(table)})
OVERLAYS = ("devices", "smoke.yaml", "tables.yaml", "cross_domain.yaml")
# What a row changes against the full method.
SWITCHES = {
    "text": (("text",), False, 0.0),
    "sketch": (("sketch",), False, 0.0),
    "fusion": (("fusion",), False, 0.0),
    "tasks": (("text", "sketch", "fusion"), False, 0.0),
    "dynamic": (("text", "sketch", "fusion"), True, 0.0),
    "unireid": (("text", "sketch", "fusion"), True, 0.5),
}


def config_file(dataset: str, row: str) -> Path:
    return CONFIGS / CONFIG_FOLDERS[dataset] / f"{row}.yaml"


def test_the_tables_have_the_papers_shape():
    assert {table: len(paper_rows(table)) for table in table_numbers()} == {2: 36, 3: 2, 4: 2, 5: 2, 6: 3}
    assert sum(len(line.published) for table in table_numbers() for line in paper_rows(table)) == 141
    for table in table_numbers():
        for line in paper_rows(table):
            assert all(0 < value < 100 for value in line.published.values())
            # Within one list R1 <= R5 <= R10.
            ranks = [line.published[name] for name in ("R1", "R5", "R10") if name in line.published]
            assert ranks == sorted(ranks)


def test_a_few_numbers_by_hand():
    full = {(line.dataset, line.task, line.row): line.published for line in paper_rows(2)}
    assert full["cuhk_pedes", "fusion", "unireid"] == {"R1": 86.29, "mAP": 80.92, "mINP": 71.30}
    assert full["icfg_pedes", "sketch", "sketch"] == {"R1": 46.49, "mAP": 1.41, "mINP": 0.20}
    assert full["rstp_reid", "text", "tasks"] == {"R1": 47.55, "mAP": 39.47, "mINP": 22.34}
    (first, *_), (*_, last) = paper_rows(3), paper_rows(6)
    assert (first.protocol, first.published["R1"], last.protocol, last.trained_on) == (
        "full_gallery", 67.13, "ten_trials", "cuhk_pedes",
    )  # fmt: skip
    assert last.published["mINP"] == 88.97


def test_an_unknown_table():
    with pytest.raises(ConfigError, match="table 7: expected one of 2, 3, 4, 5, 6"):
        paper_rows(7)


@pytest.mark.parametrize(("dataset", "row"), ROWS)
def test_every_row_has_a_config_with_its_switches(dataset, row):
    config = load_config(config_file(dataset, row))
    objective = config.objective
    assert (objective.tasks, objective.dynamic, objective.interaction_weight) == SWITCHES[row]
    assert config.data.name == dataset
    others = to_dict(config), to_dict(Config())
    for values in others:
        del values["objective"], values["data"]["name"]
    assert others[0] == others[1]  # in all else the paper's experiment


@pytest.mark.parametrize(("dataset", "row"), ROWS)
def test_a_configs_header_names_table_row_command_and_numbers(dataset, row):
    header = [line for line in config_file(dataset, row).read_text(encoding="utf-8").splitlines() if line[:1] == "#"]
    assert row_labels()[row] in header[0]
    assert any(f"reproduce_tables.py --table 2 --datasets {dataset} --rows {row} " in line for line in header)
    own = [line for t in (2, 3, 4, 5) for line in paper_rows(t) if (line.dataset, line.row) == (dataset, row)]
    expected = []
    for line in own:
        numbers = " ".join(f"{metric} {value:.2f}" for metric, value in line.published.items())
        expected.append(f"# Published, Table {line.table}, {TASK_SYMBOLS[line.task]}: {numbers}")
        assert not any(math.isnan(value) for value in line.published.values())
    assert [line for line in header if line.startswith("# Published")] == expected


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_config_loads_alone(path):
    config = load_config(path)
    assert config.train.epochs >= 1 and path.read_text(encoding="utf-8").startswith("#")
