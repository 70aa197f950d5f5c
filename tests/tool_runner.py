"""Runs the tools as users do, in separate processes, and reads the files they write."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / "tools"
CONFIGS = ROOT / "configs"

# 12 persons x 3 photos x 2 captions in batches of 8: nine steps an epoch.
SMALL_DATA = (
    "--train-identities=12 --val-identities=4 --test-identities=4 --photos=3 --captions=2".split()  # noqa: SIM905
)
STEPS = 9
TINY = (
    "model.architecture=tiny",
    "model.image_size=[32, 16]",
    "model.context_length=24",
    "data.batch_size=8",
    "data.augment.pad=2",
    "train.epochs=3",
    "train.learning_rate=1e-3",
    "train.eps=1e-8",
    "train.log_every=1",
    "eval.batch_size=16",
    "runtime.device=CPU",
)
LIMIT = 600  # seconds; a tool needs about ten, far more beside other work


def command(tool: str, *arguments: object) -> list[str]:
    """Return the command line of a tool."""
    return [sys.executable, str(TOOLS / tool), *map(str, arguments)]


def train_arguments(data: Path, output: Path, *overrides: str) -> list[str]:
    """Return the arguments of tools/train.py for a tiny run."""
    return ["--config", str(CONFIGS / "base.yaml"), *TINY, f"data.root={data}", f"train.output={output}", *overrides]


def run_tool(tool: str, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess:
    """Run a tool to its end."""
    return subprocess.run(command(tool, *arguments), cwd=cwd, capture_output=True, text=True, timeout=LIMIT)


JOBS = {
    "train.py": "train", "evaluate.py": "evaluate", "convert_checkpoint.py": "convert", "verify_dataset.py": "verify",
    "reproduce_tables.py": "reproduce", "build_sketches.py": "sketches", "make_synthetic.py": "synthetic",
    "search.py": "search", "app.py": "app", "export_model.py": "export", "doctor.py": "doctor",
    "benchmark.py": "benchmark", "show_batch.py": "show_batch",
}  # fmt: skip


def load_tool(tool: str) -> ModuleType:
    """Import what a tool runs, to call its `main` in this process."""
    return importlib.import_module(f"ms_unireid.commands.{JOBS[tool]}")


def log_lines(run: Path, kind: str | None = None) -> list[dict]:
    """Read a run's log; a line that is being written is left out."""
    file = run / "log.jsonl"
    whole = (
        [line for line in file.read_text(encoding="utf-8").splitlines(True) if line.endswith("\n")]
        if file.exists()
        else []
    )
    entries = [json.loads(line) for line in whole]
    return [entry for entry in entries if kind in (None, entry["kind"])]


def stop_at(step: int, number: signal.Signals, run: Path, arguments: list[str]) -> subprocess.CompletedProcess:
    """Start tools/train.py, send it a signal once `step` is logged, and wait for its end."""
    started = subprocess.Popen(
        command("train.py", *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + LIMIT
    while started.poll() is None and time.monotonic() < deadline:
        if any(entry["step"] >= step for entry in log_lines(run, "step")):
            os.kill(started.pid, number)
            break
        time.sleep(0.005)
    try:
        out, err = started.communicate(timeout=LIMIT)
    finally:
        started.kill()
    return subprocess.CompletedProcess(started.args, started.returncode, out, err)


def tensors(checkpoint: Path) -> dict[str, bytes]:
    """Read the tensors of a checkpoint as bytes."""
    from ms_unireid.checkpoints.checkpoint import read_checkpoint

    return {name: array.tobytes() for name, array in read_checkpoint(checkpoint).tensors.items()}
