"""The rows and published numbers of the paper's Tables 2 to 6, and of ReID5o on ORBench, from paper_tables.yaml."""

import functools
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

from ms_unireid.errors import ConfigError


@dataclass(frozen=True)
class PaperRow:
    """One line of a table for one data set."""

    table: int | str
    dataset: str  # of the evaluation
    trained_on: str
    row: str  # the experiment: a config of configs/DATASET/
    label: str  # the paper's name of the experiment
    task: str
    protocol: str
    published: dict[str, float]  # percent, by metric


def paper_rows(table: int | str) -> tuple[PaperRow, ...]:
    """List the lines of a table for each data set, in the paper's order.

    ConfigError if the table is not one of 2 to 6 or `orbench`.
    """
    tables = _contents()["tables"]
    if table not in tables:
        raise ConfigError(f"table {table}: expected one of {', '.join(map(str, tables))}")
    content = tables[table]
    return tuple(
        _row(table, content, line, dataset, values)
        for place, dataset in enumerate(content["datasets"])
        for line in content["published"]
        for values in [line["values"][place]]
    )


def _row(
    table: int | str, content: dict[str, Any], line: dict[str, Any], dataset: str, values: list[float]
) -> PaperRow:
    return PaperRow(
        table=table,
        dataset=dataset,
        trained_on=content.get("trained_on", dataset),
        row=line["row"],
        label=_contents()["rows"][line["row"]],
        task=line["task"],
        protocol=content["protocol"],
        published=dict(zip(content["metrics"], values, strict=True)),
    )


@functools.cache
def _contents() -> dict[str, Any]:
    return yaml.safe_load(resources.files(__package__).joinpath("paper_tables.yaml").read_text(encoding="utf-8"))
