"""Peak memory of a training step of the full-size ViT-B/16, by batch size and memory option.

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

from tabulate import tabulate
from tqdm import tqdm

from ms_unireid.apps.arguments import at_least
from ms_unireid.apps.benchmarks.runs import Run, child, measured
from ms_unireid.apps.benchmarks.train_step import make_step
from ms_unireid.runtime import describe

GIB = 1 << 30
# The first uses the fast forms of the operations, the default on a CPU.
MEMORY_OPTIONS = (
    (),
    ("runtime.fused_ops=plain",),
    ("runtime.recompute=true",),
    ("train.cache_chunk=8",),
    ("train.cache_chunk=8", "runtime.recompute=true"),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sub-command."""
    parser.add_argument("--batches", type=at_least(1), nargs="+", default=[8, 16, 64], help="pairs in a step")
    parser.add_argument("--limit", type=float, default=20, help="GiB of memory at which a run is stopped")


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
    """Run one job and kill it when its resident memory passes `limit` GiB; its figures are None then."""
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
    """Format the measurements as a Markdown table."""
    headings, rows = ("pairs", "options", "peak GiB", "seconds, compilation left out"), []
    for row in result["rows"]:
        peak, seconds = f"more than {result['limit_gib']:g}", ""
        if row["peak_bytes"] is not None:
            peak, seconds = f"{row['peak_bytes'] / GIB:.1f}", f"{row['seconds']:.1f}"
        rows.append((row["pairs"], row["options"], peak, seconds))
    return tabulate(rows, headings, "pipe", disable_numparse=True, colalign=("right", "left", "right", "right"))


def train_step(*overrides: str) -> Run:
    """Measure the second of two steps on random data; the first compiles."""
    step = make_step(*overrides)
    step()
    return measured(step)


JOBS = {"step": train_step}
