"""The long soak: a run that is killed repeatedly ends as an uninterrupted one, and its memory does not grow."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands.killed_runs import start, steps_of, train_killed
from run_comparison import assert_same_run
from tool_runner import run_tool, train_arguments


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


@pytest.mark.exhaustive
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads resident memory from /proc")
def test_two_thousand_steps_with_kills_and_without_growth(tmp_path):
    data, straight, killed = (tmp_path / name for name in ("data", "straight", "killed"))
    sizes = ("--train-identities=50", "--val-identities=4", "--test-identities=4", "--photos=2", "--captions=2")
    assert run_tool("make_synthetic.py", "--output", data, *sizes).returncode == 0
    # 200 pairs in batches of 4: fifty steps an epoch, so that by step 100 every graph has been compiled.
    switches = ("data.batch_size=4", "train.epochs=40", "train.checkpoint_every=20")
    clock = time.monotonic()
    memory = train_straight(train_arguments(data, straight, *switches), straight)
    middle = time.monotonic()
    kills = train_killed(train_arguments(data, killed, *switches), killed, (20, 200))
    print(
        f"straight {middle - clock:.0f} s, killed {time.monotonic() - middle:.0f} s; {len(kills.steps)} kills at steps "
        f"{kills.steps}, {kills.while_writing} of them while a file was written",
        file=sys.stderr,
    )
    assert_same_run(straight, killed)
    assert len(kills.steps) >= 8
    assert max(memory) == 2000
    early, late = memory[min(step for step in memory if step >= 100)], memory[2000]
    print(f"resident memory {early} KiB at the first step from 100 on, {late} KiB at the end", file=sys.stderr)
    assert late <= 1.05 * early
