"""Trains in processes that are killed at random moments, again and again, to the end."""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tool_runner import command

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
