"""Shared by the benchmarks: alternating runs in separate processes, and summaries of their figures."""

import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate
from tqdm import tqdm

from ms_unireid.config import Config, ModelConfig
from ms_unireid.config_schema import TowerSize
from ms_unireid.installation import child_command
from ms_unireid.runtime import describe

MIB = 1 << 20
# MindSpore runs each kernel five times on one core and five times on two, and then keeps the faster way.
WARM_UP = 10

# The figures of one run by name.
Run = dict[str, float]


def child(job: str, *arguments: object) -> list[str]:
    """Return the command that runs a job in a new process."""
    return child_command("ms_unireid.commands.main", "benchmark", "run-one", job, *arguments)


def alone(job: str, *arguments: object) -> Run:
    """Run a job in a new process and return its figures."""
    command = child(job, *arguments)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{job} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def in_turns(jobs: Mapping[str, Sequence[object]], rounds: int, what: str) -> dict[str, list[Run]]:
    """Run every job once per round, so that other load on the machine affects all of them."""
    runs: dict[str, list[Run]] = {name: [] for name in jobs}
    for _ in tqdm(range(rounds), desc=what, unit="round"):
        for name, arguments in jobs.items():
            runs[name].append(alone(*arguments))
    return runs


class Standby:
    """A process that prepares once, which takes minutes, and then runs its works on request.

    `job` must end in `stand_by`; `environment` is added to this process's variables.
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
        """Request one work of the process and wait for the figures."""
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
    """Request a work of every side once per round; return each side's first run and those after the warm-up rounds."""
    first = {side: standby.work(name) for side, standby in sides.items()}
    runs: dict[str, list[Run]] = {side: [] for side in sides}
    for done in tqdm(range(warm_up + rounds), desc=name, unit="round"):
        for side, standby in sides.items():
            run = standby.work(name)
            if done >= warm_up:
                runs[side].append(run)
    return first, runs


def stand_by(works: Mapping[str, Callable[[], None]]) -> Run:
    """Measure the works named on standard input, one per line."""
    for line in sys.stdin:
        print(json.dumps(measured(works[line.strip()])), flush=True)
    return {}


def measured(work: Callable[[], None]) -> Run:
    """Measure a call: time, the peak memory of the process, and the memory added by the call."""
    os.sync()  # earlier writes must not delay this run
    earlier_peak = _peak()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
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
    # Not the rusage: a process starts with that of the one that started it.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:", 1)[1].split()[0]) * 1024


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def figure(runs: Sequence[Run], name: str = "seconds") -> dict[str, float]:
    """Summarise one figure of several runs."""
    return summary([run[name] for run in runs])


def ratio(runs: Sequence[Run], others: Sequence[Run], name: str = "seconds") -> dict[str, float]:
    """Summarise one figure divided by that of the other side in the same round."""
    return summary([run[name] / other[name] for run, other in zip(runs, others, strict=True)])


def random_encoder(config: Config) -> Any:
    """Build the `Encoder` of a model with random weights."""
    from ms_unireid.evaluation.encoder import Encoder
    from ms_unireid.models.unireid import build_model
    from ms_unireid.runtime import prepare

    prepare(config.runtime)
    return Encoder(build_model(config.model, 1, config.runtime), config)


def rates() -> Run:
    """Measure the most that the machine does in a second: see `products.rates`."""
    return alone("rates", "-")


def machine() -> dict[str, Any]:
    """Describe the machine, and measure its rates."""
    return {**describe("CPU"), "rates": rates()}


def limit(result: Mapping[str, Any], operations: float = 0, moved: float = 0, side: str = "") -> float:
    """Return the least seconds that the machine of a result needs to multiply and add, and to move bytes.

    A `side` whose name ends in bf16 multiplies in bfloat16.
    """
    rates, kind = result["machine"]["rates"], "bfloat16" if side.endswith("bf16") else "float32"
    return max(operations / rates[kind], moved / rates["copy"])


def tower_operations(tower: TowerSize, tokens: int) -> int:
    """Count what the matrix products of a transformer multiply and add for one sequence."""
    return tower.layers * tokens * (24 * tower.width**2 + 4 * tower.width * tokens)


def picture_operations(model: ModelConfig) -> int:
    """Count them for one picture, its patches included."""
    sizes = model.sizes
    patches = math.prod((side - sizes.patch_size) // model.patch_stride + 1 for side in model.image_size)
    return tower_operations(sizes.vision, 1 + patches) + 6 * patches * sizes.patch_size**2 * sizes.vision.width


def pair_operations(model: ModelConfig) -> int:
    """Count them for a step's pair: photo, sketch and caption, forward and twice as many backward."""
    return 3 * (2 * picture_operations(model) + tower_operations(model.sizes.text, model.context_length))


def table(rows: Sequence[Sequence[object]], *headers: str) -> str:
    """Format rows as a table of Markdown."""
    return tabulate(rows, headers, "pipe", disable_numparse=True)


def spread(values: Mapping[str, float]) -> str:
    """Format a `summary` as median [min..max]."""
    median, least, most = (number(values[name]) for name in ("median", "min", "max"))
    return f"{median} [{least}..{most}]"


def number(value: float) -> str:
    """Format with two decimals; below 0.1 with two digits."""
    return f"{value:.2g}" if 0 < value < 0.1 else f"{value:.2f}"
