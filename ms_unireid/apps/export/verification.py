"""Compares exported files with the checkpoint: run in a fresh process, in batches of several sizes."""

import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ms_unireid.apps.export import runner
from ms_unireid.errors import ExportError
from ms_unireid.evaluation.similarity import normalize_rows
from ms_unireid.installation import child_command

# They add up to the number of samples; none is the batch size that a file is written for.
BATCH_SIZES = (1, 2, 5)
# Limits: the absolute difference of a float32 file, the cosine similarity of an int8 file.
TOLERANCE, LEAST_COSINE = 1e-4, 0.99
_END = "nothing is kept"
_EXCEPTION = re.compile(r"[\w.]*(Error|Exception|Fail|InvalidProtobuf|InvalidGraph|InvalidArgument)\b.*: ")


@dataclass(frozen=True)
class Agreement:
    """Largest absolute difference and smallest cosine similarity between a file's features and the checkpoint's."""

    largest_difference: float
    least_cosine: float


def compare(file: Path, found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> Agreement:
    """Compare a file's outputs, (N, D) float32 each, with the checkpoint's.

    ExportError if the shapes differ or a value is not finite.
    """
    shapes, expected_shapes = [array.shape for array in found], [array.shape for array in expected]
    if shapes != expected_shapes:
        raise ExportError(f"{file.name}: its outputs have shapes {shapes}, expected {expected_shapes}; {_END}")
    if not all(np.isfinite(array).all() for array in found):
        raise ExportError(f"{file.name}: its outputs are not finite; {_END}")
    pairs = list(zip(found, expected, strict=True))
    return Agreement(
        largest_difference=max(float(np.abs(a - b).max()) for a, b in pairs),
        least_cosine=min(float((normalize_rows(a) * normalize_rows(b)).sum(1).min()) for a, b in pairs),
    )


def run_in_fresh_process(
    files: Sequence[Path], inputs: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[Path, list[np.ndarray]]:
    """Run files of one format in one new process, in batches of `BATCH_SIZES`; return the outputs of each.

    `inputs` maps the stem of a file to its inputs by name, sum(BATCH_SIZES) rows each.

    Raises:
        ExportError: If a file cannot be loaded and run.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "inputs", Path(folder) / "outputs"
        given.mkdir()
        found.mkdir()
        for file in files:
            np.savez(given / f"{file.stem}.npz", **inputs[file.stem])
        command = child_command(runner.__name__, given, found, ",".join(map(str, BATCH_SIZES)), *files)
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ExportError(_failure(files, done))
        return {file: _arrays(found / f"{file.name}.npz") for file in files}


def check_tolerance(file: Path, agreement: Agreement, precision: str) -> None:
    """Raise an ExportError if a file differs too much from the checkpoint."""
    if precision == "int8":
        if not agreement.least_cosine >= LEAST_COSINE:
            cosine = f"{agreement.least_cosine:.4f}, less than {LEAST_COSINE}"
            raise ExportError(f"{file.name}: its smallest cosine similarity to the checkpoint is {cosine}; {_END}")
    elif not agreement.largest_difference <= TOLERANCE:
        difference = f"{agreement.largest_difference:.1e}, more than {TOLERANCE:.0e}"
        raise ExportError(f"{file.name}: its largest difference from the checkpoint is {difference}; {_END}")


def _arrays(file: Path) -> list[np.ndarray]:
    with np.load(file) as arrays:
        return [arrays[name] for name in arrays.files]


def _failure(files: Sequence[Path], done: subprocess.CompletedProcess) -> str:
    """Name the file that failed and the first exception; MindSpore prints more after it."""
    begun = [file.name for file in files if f"running {file.name}" in done.stdout]
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if _EXCEPTION.match(line)]
    how = f"signal {-done.returncode}" if done.returncode < 0 else f"code {done.returncode}"
    reason = (errors or lines or ["no error message"])[0][:200]
    return f"{(begun or [files[0].name])[-1]}: the written file cannot be loaded and run ({how}: {reason}); {_END}"
