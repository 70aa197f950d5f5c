"""The published numbers, and the config of every row."""

from pathlib import Path

import pytest
from tool_runner import CONFIGS

from ms_unireid.apps.paper.published_tables import paper_rows
from ms_unireid.apps.paper.table_plan import CONFIG_FOLDERS
from ms_unireid.config import Config, load_config, to_dict
from ms_unireid.data.orbench import TASKS
from ms_unireid.errors import ConfigError
from ms_unireid.modalities import MEAN, PICTURES, modalities_of, symbol

ROWS = sorted({(line.trained_on, line.row) for table in range(2, 7) for line in paper_rows(table)})
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
    assert {table: len(paper_rows(table)) for table in range(2, 7)} == {2: 36, 3: 2, 4: 2, 5: 2, 6: 3}
    assert sum(len(line.published) for table in range(2, 7) for line in paper_rows(table)) == 141
    for table in range(2, 7):
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


def header(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]


def published(tables: tuple[int, ...], dataset: str, row: str) -> list[str]:
    """Write a row's numbers as a header should."""
    own = [line for table in tables for line in paper_rows(table) if (line.dataset, line.row) == (dataset, row)]
    texts = [" ".join(f"{metric} {value:.2f}" for metric, value in line.published.items()) for line in own]
    return [f"# Published, Table {o.table}, {symbol(o.task)}: {t}" for o, t in zip(own, texts, strict=True)]


@pytest.mark.parametrize(("dataset", "row"), ROWS)
def test_a_configs_header_names_table_row_command_and_numbers(dataset, row):
    lines = header(config_file(dataset, row))
    assert next(line.label for line in paper_rows(2) if line.row == row) in lines[0]
    assert any(f"reproduce_tables.py --table 2 --datasets {dataset} --rows {row} " in line for line in lines)
    assert [line for line in lines if line.startswith("# Published")] == published((2, 3, 4, 5), dataset, row)


def test_the_cross_domain_config():
    path = CONFIGS / "pku_sketch" / "cross_domain.yaml"
    assert load_config(path).data.name == "pku_sketch"
    assert [line for line in header(path) if "Published" in line] == published((6,), "pku_sketch", "unireid")


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_config_loads_alone(path):
    config = load_config(path)
    assert config.train.epochs >= 1 and path.read_text(encoding="utf-8").startswith("#")


def test_orbench_has_the_rows_of_its_protocol_and_their_means():
    lines = {line.task: line.published for line in paper_rows("orbench")}
    assert set(lines) == {*TASKS.values(), *(f"{MEAN}{number}" for number in range(1, 5))}
    for number in range(1, 5):
        own = [lines[task] for task in TASKS.values() if len(modalities_of(task)) == number]
        means = {metric: sum(one[metric] for one in own) / len(own) for metric in own[0]}
        assert lines[f"{MEAN}{number}"] == pytest.approx(means, abs=6e-4)  # of three decimals


def test_the_config_of_orbench():
    path = CONFIGS / "orbench" / "unireid.yaml"
    config, lines = load_config(path), {line.task: line for line in paper_rows("orbench")}
    assert config.data.name == "orbench" and set(config.data.modalities) == set(PICTURES)
    means = published(("orbench",), "orbench", "unireid")[-4:]
    assert [line for line in header(path) if "Published" in line] == [
        line.replace("Published,", "Published for ReID5o,") for line in means
    ]
    assert {line.row for line in lines.values()} == {"unireid"}
