"""Photos indexed per second by two processes, of msrun or of Ray, compared with one; each has a core.

python tools/benchmark.py sharing --photos 384 --rounds 3 --json sharing.json
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from ms_unireid.apps.arguments import at_least
from ms_unireid.apps.benchmarks.index import PHOTO_SIZE, make_photos
from ms_unireid.apps.benchmarks.runs import MIB, Run, figure, ratio, spread, summary
from ms_unireid.config import Config, load_config, to_dict
from ms_unireid.errors import ConfigError
from ms_unireid.runtime import describe

ROOT = Path(__file__).resolve().parents[3]
_LAUNCHER = "-m mindspore.parallel.cluster.run --worker_num=2 --local_worker_num=2 --join=True --master_port=8119"
# What starts the processes, the options of the job, and the number of processes and cores.
WAYS = {
    "one": ("", (), 1),
    "msrun": (f"{_LAUNCHER} --log_dir={{folder}}", (), 2),
    "ray": ("", ("--engine", "ray", "--workers", "2"), 2),
}
_PAUSE = 0.5  # seconds between two looks at a run
JOBS: dict[str, Any] = {}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sub-command."""
    parser.add_argument("--photos", type=at_least(1), default=384)
    parser.add_argument("--rounds", type=at_least(1), default=3)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="change a value of the config")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Index the same photos in each way, in turns, with one thread for each process."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise ConfigError("this needs two cores; it may run on one")
    runs: dict[str, list[Run]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        photos, model = make_photos(made / "photos", options.photos), _make_checkpoint(made, options.overrides)
        config = load_config(None, list(options.overrides))
        for number in range(options.rounds):
            for name in WAYS:
                index = made / f"{name}-{number}"
                runs[name].append(_run(name, index, photos, model, cores, options.photos, config))
    return {
        "what": f"{options.photos} JPEG photos of {PHOTO_SIZE[1]}x{PHOTO_SIZE[0]} into an index, one thread a process",
        "rounds": options.rounds,
        "photos_per_second": {name: figure(done, "photos_per_second") for name, done in runs.items()},
        "speed_up": {name: ratio(runs[name], runs["one"], "photos_per_second") for name in WAYS},
        "processor_seconds": {name: ratio(runs[name], runs["one"], "cpu_seconds") for name in WAYS},
        "peak_bytes": {name: figure(done, "peak_bytes") for name, done in runs.items()},
        "memory_of_as_many": {
            name: summary([run["peak_bytes"] / WAYS[name][2] / one["peak_bytes"] for run, one in _pairs(runs, name)])
            for name in WAYS
        },
        "machine": describe("CPU"),
    }


def _pairs(runs: dict[str, list[Run]], name: str) -> list[tuple[Run, Run]]:
    return list(zip(runs[name], runs["one"], strict=True))


def to_text(result: dict[str, Any]) -> str:
    """Format the measurements as text."""
    lines = [
        f"{result['what']}; {result['rounds']} rounds, median [min..max]",
        "from the first written batch to the last; memory is the sum of the processes' PSS at its peak, Ray's included",
    ]
    for name, speed in result["photos_per_second"].items():
        cpu, memory = spread(result["processor_seconds"][name]), result["peak_bytes"][name]["median"] / MIB
        lines.append(
            f"{name}: {spread(speed)} photos a second, {spread(result['speed_up'][name])} of one; processor time {cpu} "
            f"of one; {memory:.0f} MiB, {spread(result['memory_of_as_many'][name])} of as many single ones"
        )
    return "\n".join(lines)


def _make_checkpoint(folder: Path, overrides: list[str]) -> Path:
    from ms_unireid.checkpoints.checkpoint import save_checkpoint
    from ms_unireid.models.unireid import build_model

    config = load_config(None, list(overrides))
    save_checkpoint(folder / "model.ckpt", build_model(config.model, 1).get_parameters(), {"config": to_dict(config)})
    return folder / "model.ckpt"


def _run(name: str, index: Path, photos: Path, model: Path, cores: list[int], count: int, config: Config) -> Run:
    """Index the photos in a new process, and look at its processes and its features until it ends."""
    launcher, options, processes = WAYS[name]
    command = [sys.executable, *launcher.format(folder=f"{index}-logs").split(), str(ROOT / "tools" / "search.py")]
    command += ["index", "--photos", str(photos), "--checkpoint", str(model), "--output", str(index), *options]
    environment = {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))),  # msrun calls python
    }
    with open(f"{index}.log", "wb") as log:
        started = subprocess.Popen(
            ["taskset", "-c", ",".join(map(str, cores[:processes])), *command],
            env={**os.environ, **environment}, stdout=log, stderr=log,
        )  # fmt: skip
    process, seen = psutil.Process(started.pid), _Seen(2 * config.model.sizes.embed_dim)  # float16
    while started.poll() is None:
        seen.look(process, index)
        time.sleep(_PAUSE)
    if started.returncode or seen.rows < count:
        raise RuntimeError(f"{name} failed: {Path(f'{index}.log').read_text(errors='replace')[-2000:]}")
    # When the first batch is written, each process has encoded one.
    return {
        "photos_per_second": (count - processes * config.eval.batch_size) / (seen.last - seen.first),
        "cpu_seconds": seen.cpu_seconds,
        "peak_bytes": seen.peak,
    }


class _Seen:
    """What has been seen of a run: when the first and the last rows came, memory, and processor time between them."""

    def __init__(self, row_bytes: int):
        self.row_bytes = row_bytes
        self.rows, self.first, self.last, self.peak, self.cpu_seconds = 0, 0.0, 0.0, 0, 0.0
        self._cpu: dict[int, float] = {}  # by process
        self._cpu_at_first = 0.0

    def look(self, process: psutil.Process, index: Path) -> None:
        """Add what is to be seen now."""
        rows = sum(file.stat().st_size for file in index.glob("features.*")) // self.row_bytes
        now, memory = time.perf_counter(), 0
        for one in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):  # it has just ended
                memory += one.memory_full_info().pss
                self._cpu[one.pid] = sum(one.cpu_times()[:2])
        self.peak, cpu = max(self.peak, memory), sum(self._cpu.values())
        if rows > self.rows:
            if not self.rows:
                self.first, self._cpu_at_first = now, cpu
            self.rows, self.last, self.cpu_seconds = rows, now, cpu - self._cpu_at_first
