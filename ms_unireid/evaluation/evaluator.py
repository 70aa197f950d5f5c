"""Evaluation of a split's features: rows of (task, protocol) and their table, Markdown and JSON forms."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from ms_unireid.config import EvalConfig
from ms_unireid.errors import CheckpointError
from ms_unireid.evaluation.protocols import Results, evaluate_protocol
from ms_unireid.evaluation.questions import TASK_SYMBOLS, SplitFeatures

HEADER = ("task", "protocol", "R1", "R5", "R10", "mAP", "mINP", "chance R1", "queries", "no match")


def evaluate_features(feats: SplitFeatures, protocol: str = "paper", settings: EvalConfig | None = None) -> Results:
    """Evaluate the features of a split under a protocol, `paper` or `all`; see `evaluate_protocol`.

    Raises:
        ConfigError: If the data set has not what the protocol needs.
        CheckpointError: If the features are not finite.
    """
    try:
        return evaluate_protocol(protocol, feats, settings)
    except ValueError as error:
        raise CheckpointError(
            f"{error}; train again with a lower learning rate or take an earlier checkpoint"
        ) from error


def to_json(results: Results) -> list[dict[str, Any]]:
    """List the rows as plain dictionaries: task, protocol and every metric."""
    return [{"task": t, "protocol": p, **dataclasses.asdict(metrics)} for (t, p), metrics in results.items()]


def to_table(rows: Sequence[dict[str, Any]]) -> str:
    """Lay out rows of `to_json` for a terminal."""
    cells = [HEADER, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(HEADER))]
    aligned = [
        [c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        for line in cells
    ]
    return "\n".join("  ".join(line).rstrip() for line in aligned)


def to_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Lay out rows of `to_json` as a Markdown table."""
    lines = [HEADER, ("---", "---", *("---:",) * (len(HEADER) - 2)), *(_cells(row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    numbers = (f"{row[name]:.2f}" for name in ("R1", "R5", "R10", "mAP", "mINP", "chance_R1"))
    counts = (str(row["queries"]), str(row["queries_without_match"]))
    return TASK_SYMBOLS[row["task"]], row["protocol"], *numbers, *counts
