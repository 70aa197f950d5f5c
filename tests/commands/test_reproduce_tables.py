"""A table from the command line: the plan, real runs on a tiny data set, a kill, and wrong arguments."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tool_runner import LIMIT, TINY, command, load_tool, log_lines, run_tool

ARGUMENTS = ("--table", "2", "--datasets", "synthetic", "--rows", "text", "sketch")


def arguments(data: Path, output: Path) -> list[str]:
    return [
        *ARGUMENTS,
        "--data-root",
        str(data),
        "--output",
        str(output),
        *TINY,
        "data.augment.pad=0",
        "train.epochs=2",
        "runtime.graph_mode=false",
    ]


@pytest.mark.exhaustive
def test_a_killed_table_resumes(data, tmp_path, capsys):
    asked = arguments(data, tmp_path)
    started = subprocess.Popen(
        command("reproduce_tables.py", *asked), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    first, second = (tmp_path / "synthetic" / row / "seed_1" for row in ("text", "sketch"))
    deadline = time.monotonic() + LIMIT
    while started.poll() is None and time.monotonic() < deadline and len(log_lines(second, "step")) < 10:
        time.sleep(0.01)
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    kept = {p.name: p.stat().st_mtime_ns for p in first.iterdir()}
    assert "results.json" in kept and not (tmp_path / "table_2.md").exists()

    load_tool("reproduce_tables.py").main([*asked, "--dry-run"])
    plan = capsys.readouterr().out
    assert "synthetic    text     seed 1: steps left 0 of 18, time 0:00:00 (finished)" in plan
    assert "runs: 2, lines: 2" in plan

    load_tool("reproduce_tables.py").main(asked)
    printed = capsys.readouterr().out
    assert {name: (first / name).stat().st_mtime_ns for name in kept} == kept
    steps = [entry["step"] for entry in log_lines(second, "step")]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) > 10
    assert printed == (tmp_path / "table_2.md").read_text(encoding="utf-8")
    table = json.loads((tmp_path / "table_2.json").read_text(encoding="utf-8"))
    found = {(line["task"], line["row"]): line["metrics"]["R1"] for line in table["lines"]}
    assert found.keys() == {("text", "text"), ("sketch", "sketch")}
    for task in found:
        checkpoint = tmp_path / "synthetic" / task[1] / "seed_1" / f"best_{task[0]}.ckpt"
        load_tool("evaluate.py").main(["--checkpoint", str(checkpoint), "--json", str(tmp_path / "alone.json")])
        rows = json.loads((tmp_path / "alone.json").read_text(encoding="utf-8"))["rows"]
        (row,) = [r for r in rows if (r["task"], r["protocol"]) == (task[0], "exclude_source_photo")]
        assert found[task]["values"] == [row["R1"]] and found[task]["paper"] is None


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--table", "7"], "table 7: expected one of 2, 3, 4, 5, 6"),
        (["--table", "2", "--rows", "wc"], "--rows wc: expected some of"),
        (["--table", "6"], "--target pku_sketch=FOLDER"),
        (["--table", "2", "train.epoch=3"], "did you mean 'train.epochs'?"),
        (["--table", "6", "--target", "pku_sketch"], "expected NAME=FOLDER"),
    ],
)
def test_mistakes_are_one_line(tmp_path, wrong, words):
    done = run_tool("reproduce_tables.py", *wrong, "--output", tmp_path / "out")
    assert done.returncode == 2 and "Traceback" not in done.stderr and words in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_help_has_an_example():
    done = subprocess.run([sys.executable, command("reproduce_tables.py")[1], "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "example: reproduce_tables.py --table 2" in done.stdout
