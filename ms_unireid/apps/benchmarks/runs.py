"""What every benchmark shares: runs in processes of their own, in turns, and the spread of their figures."""

import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from ms_unireid.installation import child_command

MIB = 1 << 20
# MindSpore runs each kernel on one core for five times and on two for five, and then keeps to the better.
WARM_UP = 10

# Figure to value, of one run.
Run = dict[str, float]


def child(job: str, *arguments: object) -> list[str]:
    """Return the command of a job in a process of its own."""
    return child_command("ms_unireid.commands.main", "benchmark", "run-one", job, *arguments)


def alone(job: str, *arguments: object) -> Run:
    """Run one of the tool's jobs in a process of its own."""
    command = child(job, *arguments)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{job} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def in_turns(jobs: Mapping[str, Sequence[object]], rounds: int, what: str) -> dict[str, list[Run]]:
    """Run every job once a round, so that a busy time of the machine meets all of them."""
    runs: dict[str, list[Run]] = {name: [] for name in jobs}
    for _ in tqdm(range(rounds), desc=what, unit="round"):
        for name, arguments in jobs.items():
            runs[name].append(alone(*arguments))
    return runs


class Standby:
    """A process that gets ready once, works whenever it is told to and sleeps on its pipe in between.

    For what takes minutes to get ready, so that all rounds share it.

    Args:
        job: One of the tool's jobs that ends in `stand_by`.
        arguments: The job's.
        environment: Variables beside this process's own.
    """

    def __init__(self, job: str, *arguments: object, environment: Mapping[str, str] | None = None):
        self.job = job
        self.process = subprocess.Popen(
            child(job, *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **(environment or {})},
        )

    def work(self, name: str) -> Run:
        """Have it do one of its works, and wait."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(f"{name}\n")
            self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("{"):  # MindSpore prints lines of its own
                return json.loads(line)
        raise RuntimeError(f"{self.job} ended with code {self.process.wait()}")

    def __enter__(self) -> "Standby":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()


def work_in_turns(
    sides: Mapping[str, Standby], name: str, warm_up: int, rounds: int
) -> tuple[dict[str, Run], dict[str, list[Run]]]:
    """Have every side do a work once a round, after some rounds that do not count.

    Returns:
        Each side's first run ever, and its runs that count.
    """
    first = {side: standby.work(name) for side, standby in sides.items()}
    runs: dict[str, list[Run]] = {side: [] for side in sides}
    for done in tqdm(range(warm_up + rounds), desc=name, unit="round"):
        for side, standby in sides.items():
            run = standby.work(name)
            if done >= warm_up:
                runs[side].append(run)
    return first, runs


def stand_by(works: Mapping[str, Callable[[], None]]) -> Run:
    """Do and measure the works named on standard input, one a line."""
    for line in sys.stdin:
        print(json.dumps(measured(works[line.strip()])), flush=True)
    return {}


def measured(work: Callable[[], None]) -> Run:
    """Time some work; memory is the process's peak, and how far the work's own peak lies above what was held before."""
    os.sync()  # nobody pays for what another wrote
    earlier_peak = _peak()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # forgets it
    held = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    start, cpu_start = time.perf_counter(), time.process_time()
    work()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_bytes": max(_peak(), earlier_peak),
        "extra_bytes": _peak() - held,
    }


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return median, least and most."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def spread(values: Mapping[str, float]) -> str:
    """Lay out a `summary`."""
    return f"{values['median']:.2f} [{values['min']:.2f}..{values['max']:.2f}]"
