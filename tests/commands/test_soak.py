"""A run that is killed repeatedly ends as an uninterrupted one, and its memory does not grow."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from run_comparison import assert_same_run
from tool_runner import command, run_tool, train_arguments

TAIL = 1 << 16  # bytes at the log's end that hold at least one whole line of a step
SILENCE = 240  # seconds without a logged step
SEED = 7


@dataclass
class Kills:
    """Counts of the states in which kills came."""

    steps: list[int] = field(default_factory=list)
    while_writing: int = 0


def last_step(run: Path) -> int:
    """Read the newest whole step of a log that may be long and still grows."""
    try:
        with (run / "log.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            lines = file.read().split(b"\n")[1 if file.tell() > TAIL else 0 : -1]
    except FileNotFoundError:
        return 0
    steps = (entry["step"] for line in reversed(lines) if (entry := json.loads(line))["kind"] == "step")
    return next(steps, 0)


def log_number(run: Path) -> int | None:
    """Return the number of the log's file; a continuation replaces the file before it trains."""
    file = run / "log.jsonl"
    return file.stat().st_ino if file.exists() else None


def steps_of(started: subprocess.Popen, run: Path) -> Iterator[int]:
    """Yield the newest step each time one is logged, until the process ends."""
    seen, heard = None, time.monotonic()
    while started.poll() is None:
        step = last_step(run)
        if step != seen:
            seen, heard = step, time.monotonic()
            yield step
        if time.monotonic() - heard > SILENCE:
            started.kill()
        time.sleep(0.005)


def start(arguments: list[str], errors: Path) -> subprocess.Popen:
    with errors.open("w", encoding="utf-8") as file:
        return subprocess.Popen(command("train.py", *arguments), stdout=subprocess.DEVNULL, stderr=file)


def resident(process: subprocess.Popen) -> int:
    """Return a process's resident memory in KiB, 0 once it has ended."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")), 0)


def train_straight(arguments: list[str], run: Path) -> dict[int, int]:
    """Train to the end; return the resident memory at the steps."""
    errors = run.with_suffix(".stderr")
    started = start(arguments, errors)
    memory = {step: resident(started) for step in steps_of(started, run)}
    assert started.returncode == 0, errors.read_text(encoding="utf-8")
    return {step: size for step, size in memory.items() if size}


def train_killed(arguments: list[str], run: Path, between: tuple[int, int]) -> Kills:
    """Train to the end, killed at a random moment each time a random number of steps was trained."""
    chance, kills, errors = random.Random(SEED), Kills(), run.with_suffix(".stderr")
    while True:
        before, target = log_number(run), None
        started = start([*arguments, "train.resume=auto"], errors)
        patience = chance.randint(*between)
        for step in steps_of(started, run):
            if target is None and log_number(run) != before:
                target = step + patience
            if target is not None and step >= target:
                time.sleep(chance.uniform(0, 0.2))
                started.send_signal(signal.SIGKILL)
                break
        if started.wait(SILENCE) == 0:
            return kills
        assert started.returncode == -signal.SIGKILL, errors.read_text(encoding="utf-8")
        kills.steps.append(last_step(run))
        kills.while_writing += any(run.glob(".*.partial*"))


def soak(data: Path, place: Path, between: tuple[int, int], *overrides: str) -> tuple[Kills, dict[int, int]]:
    """Train straight and killed, compare the two; return the kills and the straight run's memory."""
    straight, killed = place / "straight", place / "killed"
    clock = time.monotonic()
    memory = train_straight(train_arguments(data, straight, *overrides), straight)
    middle = time.monotonic()
    kills = train_killed(train_arguments(data, killed, *overrides), killed, between)
    print(
        f"straight {middle - clock:.0f} s, killed {time.monotonic() - middle:.0f} s; {len(kills.steps)} kills at steps "
        f"{kills.steps}, {kills.while_writing} of them while a file was written",
        file=sys.stderr,
    )
    early = min((step for step in memory if step >= 100), default=max(memory))
    print(f"resident memory {memory[early]} KiB at step {early}, {memory[max(memory)]} KiB at the end", file=sys.stderr)
    assert_same_run(straight, killed)
    return kills, memory


def test_a_repeatedly_killed_run_ends_as_an_uninterrupted_one(data, tmp_path):
    kills, _ = soak(data, tmp_path, (10, 16), "train.epochs=6", "train.checkpoint_every=4")
    assert len(kills.steps) >= 2


@pytest.mark.exhaustive
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads resident memory from /proc")
def test_two_thousand_steps_with_kills_and_without_growth(tmp_path):
    sizes = ("--train-identities=50", "--val-identities=4", "--test-identities=4", "--photos=2", "--captions=2")
    assert run_tool("make_synthetic.py", "--output", tmp_path / "data", *sizes).returncode == 0
    # 200 pairs in batches of 4: fifty steps an epoch, so that by step 100 every graph has been compiled.
    switches = ("data.batch_size=4", "train.epochs=40", "train.checkpoint_every=20")
    kills, memory = soak(tmp_path / "data", tmp_path, (20, 200), *switches)
    assert len(kills.steps) >= 8
    assert max(memory) == 2000
    early, late = memory[min(step for step in memory if step >= 100)], memory[max(memory)]
    assert late <= 1.05 * early
