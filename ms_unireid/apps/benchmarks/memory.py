"""Peak memory of a training step of the full-size ViT-B/16, by batch and by what can be done about it.

python tools/benchmark.py memory --batches 8 16 64 --json memory.json
"""

import argparse
import contextlib
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ms_unireid.apps.benchmarks.runs import Run, child, measured
from ms_unireid.apps.benchmarks.train_step import make_step
from ms_unireid.runtime import describe

GIB = 1 << 30
# What a step can be asked to do about its memory; on a CPU, asked nothing, it takes the fast forms.
MEMORY_OPTIONS = (
    (),
    ("runtime.fused_ops=plain",),
    ("runtime.recompute=true",),
    ("train.cache_chunk=8",),
    ("train.cache_chunk=8", "runtime.recompute=true"),
)


def add_command(commands: Any) -> None:
    """Add the sub-command's options."""
    parser = commands.add_parser("memory", help="peak memory of a step of the full-size ViT-B/16, by batch and option")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16, 64], help="pairs in a step")
    parser.add_argument("--limit", type=float, default=20, help="GiB that a process may reach before it is given up")
    parser.add_argument("--json", type=Path, help="write the measurements as JSON")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure each batch with each option."""
    limit, rows = options.limit, []
    for pairs in tqdm(options.batches, unit="batch"):
        for overrides in MEMORY_OPTIONS:
            command = child("step", f"data.batch_size={pairs}", *overrides)
            rows.append({"pairs": pairs, "options": " ".join(overrides) or "none", **watched(command, limit)})
    return {
        "what": "one step of ViT-B/16 at 384x128, float32",
        "limit_gib": limit,
        "rows": rows,
        "machine": describe("CPU"),
    }


def watched(command: list[str], limit: float) -> dict[str, float | None]:
    """Run one job, ended when its resident memory passes `limit` GiB; None stands for what it did not live to tell."""
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    status = Path(f"/proc/{started.pid}/statm")
    page = os.sysconf("SC_PAGE_SIZE")
    while started.poll() is None:
        with contextlib.suppress(OSError):
            if int(status.read_text().split()[1]) * page > limit * GIB:
                started.kill()
        time.sleep(0.02)
    if started.returncode:
        return {"seconds": None, "peak_bytes": None}
    return json.loads(started.stdout.read().splitlines()[-1])


def to_text(result: dict[str, Any]) -> str:
    """Lay out the measurements as a Markdown table."""
    lines = ["| pairs | options | peak GiB | seconds, compilation left out |", "| ---: | --- | ---: | ---: |"]
    for row in result["rows"]:
        peak, seconds = f"more than {result['limit_gib']:g}", ""
        if row["peak_bytes"] is not None:
            peak, seconds = f"{row['peak_bytes'] / GIB:.1f}", f"{row['seconds']:.1f}"
        lines.append(f"| {row['pairs']} | {row['options']} | {peak} | {seconds} |")
    return "\n".join(lines)


def train_step(*overrides: str) -> Run:
    """Take two steps on random data and measure the second, which compiles nothing."""
    step = make_step(*overrides)
    step()
    return measured(step)


JOBS = {"step": train_step}
