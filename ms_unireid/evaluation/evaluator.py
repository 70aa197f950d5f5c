"""Evaluation of a split's features: rows of (task, protocol) and their table, Markdown and JSON forms."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from ms_unireid.config import EvalConfig
from ms_unireid.errors import CheckpointError
from ms_unireid.evaluation.metrics import METRICS
from ms_unireid.evaluation.protocols import Results, evaluate_protocol, evaluate_reranked
from ms_unireid.evaluation.queries import TASK_SYMBOLS, SplitFeatures

NUMBERS = (*METRICS, "chance R1", "queries", "no match")
# What rows of several evaluations have before their task.
LEADING = {"checkpoint": "checkpoint", "trained_on": "trained on", "dataset": "evaluated on"}


def evaluate_features(
    feats: SplitFeatures, protocol: str = "paper", settings: EvalConfig | None = None, reranked: bool = False
) -> Results:
    """Evaluate the features of a split.

    Args:
        feats: Features of the split.
        protocol: As `evaluate_protocol` takes it.
        settings: As there.
        reranked: Add each row once more with re-ranking.

    Raises:
        ConfigError: If the data set lacks what the protocol needs.
        CheckpointError: If the features are not finite.
    """
    try:
        results = evaluate_protocol(protocol, feats, settings)
        return results | evaluate_reranked(protocol, feats, settings) if reranked else results
    except ValueError as error:
        raise CheckpointError(
            f"{error}; train again with a lower learning rate or take an earlier checkpoint"
        ) from error


def to_json(results: Results) -> list[dict[str, Any]]:
    """List the rows as plain dictionaries: task, protocol and every metric."""
    return [{"task": t, "protocol": p, **dataclasses.asdict(metrics)} for (t, p), metrics in results.items()]


def to_table(rows: Sequence[dict[str, Any]]) -> str:
    """Lay out rows of `to_json` for a terminal.

    Rows of several evaluations may have the keys of `LEADING`, which then come first.
    """
    cells = [_header(rows), *(_cells(row) for row in rows)]
    texts = len(cells[0]) - len(NUMBERS)
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    aligned = [
        [c.ljust(w) if i < texts else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        for line in cells
    ]
    return "\n".join("  ".join(line).rstrip() for line in aligned)


def to_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Lay out rows as `to_table` does, as a Markdown table."""
    header = _header(rows)
    rules = ("---",) * (len(header) - len(NUMBERS)) + ("---:",) * len(NUMBERS)
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, rules, *(_cells(row) for row in rows)])


def _header(rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    return *(LEADING[key] for key in LEADING if rows and key in rows[0]), "task", "protocol", *NUMBERS


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    leading = (row[key] for key in LEADING if key in row)
    deviation = row.get("deviation", {})
    numbers = (_number(row[name], deviation.get(name)) for name in (*METRICS, "chance_R1"))
    counts = (str(row["queries"]), str(row["queries_without_match"]))
    return *leading, TASK_SYMBOLS[row["task"]], row["protocol"], *numbers, *counts


def _number(mean: float, deviation: float | None) -> str:
    return f"{mean:.2f}" if deviation is None else f"{mean:.2f} ± {deviation:.2f}"
