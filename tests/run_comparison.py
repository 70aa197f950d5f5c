"""Compares the files of two runs, bit for bit."""

import json
from pathlib import Path

from tool_runner import log_lines, tensors

BEST = {f"best_{task}.ckpt" for task in ("text", "sketch", "fusion", "average")}
RUN_FILES = BEST | {
    ".lock",
    "config.yaml",
    "environment.json",
    "log.jsonl",
    "last.ckpt",
    "previous.ckpt",
    "results.json",
    "curves.png",
    "ranked_val.png",
}
_SPEEDS = ("seconds", "pairs_per_second")


def results_of(run: Path) -> dict:
    """Read results.json without the evaluations' times."""
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    for entry in results["evaluations"]:
        del entry["seconds"]
    return results


def numbers_of(run: Path) -> list[dict]:
    """Read the log without what depends on the machine's speed."""
    return [{k: v for k, v in entry.items() if k not in _SPEEDS} for entry in log_lines(run)]


def assert_same_run(one: Path, other: Path) -> None:
    """Compare the files, and every tensor and number in them."""
    assert {p.name for p in one.iterdir()} == {p.name for p in other.iterdir()} == RUN_FILES
    assert numbers_of(one) == numbers_of(other)
    assert results_of(one) == results_of(other)
    for name in ("last.ckpt", "previous.ckpt", *sorted(BEST)):
        assert tensors(one / name) == tensors(other / name), name
