"""Evaluates a split's features, and lays the rows out as JSON, as text and as Markdown."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from ms_unireid.config import EvalConfig
from ms_unireid.errors import CheckpointError
from ms_unireid.evaluation.metrics import METRICS
from ms_unireid.evaluation.protocols import Results, evaluate_protocol, evaluate_reranked
from ms_unireid.evaluation.queries import SplitFeatures
from ms_unireid.modalities import symbol

# Keys that rows of several evaluations have in front, and their titles.
LEADING = {"checkpoint": "checkpoint", "trained_on": "trained on", "dataset": "evaluated on", "folder": "folder"}
NUMBERS = (*METRICS, "chance R1", "queries", "no match")
# The form of a row of `to_json`, for `files.check_form`.
ROW = {
    "task": str,
    "protocol": str,
    **dict.fromkeys((*METRICS, "chance_R1"), (float, None)),
    **dict.fromkeys(("queries", "queries_without_match"), int),
}


def evaluate_features(
    feats: SplitFeatures, protocol: str = "paper", settings: EvalConfig | None = None, reranked: bool = False
) -> Results:
    """Evaluate as `evaluate_protocol` does; with `reranked`, add each row once more with re-ranking.

    A protocol that the data set does not allow raises a ConfigError, features that are not finite a CheckpointError.
    """
    try:
        results = evaluate_protocol(protocol, feats, settings)
        return results | evaluate_reranked(protocol, feats, settings) if reranked else results
    except ValueError as error:
        raise CheckpointError(
            f"{error}; train again with a lower learning rate or use an earlier checkpoint"
        ) from error


def to_json(results: Results) -> list[dict[str, Any]]:
    """List the rows as plain dictionaries: task, protocol and every metric, None if no query has a match."""
    unknown = dict.fromkeys((*METRICS, "chance_R1"))
    return [
        {"task": t, "protocol": p, **dataclasses.asdict(metrics), **({} if metrics.queries else unknown)}
        for (t, p), metrics in results.items()
    ]


def to_table(rows: Sequence[dict[str, Any]], table_format: str = "plain") -> str:
    """Lay out rows of `to_json`, which may have the keys of `LEADING` as well, for a terminal."""
    leading = [key for key in LEADING if rows and key in rows[0]]
    titles = [*(LEADING[key] for key in leading), "task", "protocol", *NUMBERS]
    cells = [[*(row[key] for key in leading), *_cells(row)] for row in rows]
    return format_table(titles, cells, len(leading) + 2, table_format)


def to_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Lay out rows as `to_table` does, as a Markdown table."""
    return to_table(rows, "pipe")


def format_table(
    titles: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int, table_format: str = "pipe"
) -> str:
    """Lay out a table whose first columns are text and whose other ones are numbers, in a format of `tabulate`."""
    alignment = ["left"] * text_columns + ["right"] * (len(titles) - text_columns)
    # A number is printed unchanged, with its trailing zeros.
    return tabulate(rows, titles, table_format, disable_numparse=True, colalign=alignment if rows else None)


def format_mean(mean: float | None, deviation: float | None = None) -> str:
    """Write a number in percent with its standard deviation, if there is one; a dash for None."""
    if mean is None:
        return "-"
    return f"{mean:.2f}" if deviation is None else f"{mean:.2f} ± {deviation:.2f}"


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    deviation = row.get("deviation", {})
    numbers = (format_mean(row[name], deviation.get(name)) for name in (*METRICS, "chance_R1"))
    counts = (str(row["queries"]), str(row["queries_without_match"]))
    return symbol(row["task"]), row["protocol"], *numbers, *counts
