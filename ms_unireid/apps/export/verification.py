"""Exported files beside the checkpoint: loaded in a fresh process, run on real inputs in batches of several sizes."""

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

# As many rows as there are samples; none of them is what a file is written for.
BATCH_SIZES = (1, 2, 5)
# Largest absolute difference of a float32 file, least cosine similarity of an int8 one.
TOLERANCE, LEAST_COSINE = 1e-4, 0.99
_END = "nothing is kept"
_EXCEPTION = re.compile(r"[\w.]*(Error|Exception|Fail|InvalidProtobuf|InvalidGraph|InvalidArgument)\b.*: ")


@dataclass(frozen=True)
class Agreement:
    """How near a file comes to the checkpoint, over all sampled rows and outputs.

    Attributes:
        largest_difference: Between two values, absolute.
        least_cosine: Cosine similarity between two features of one row.
    """

    largest_difference: float
    least_cosine: float


def compare(file: Path, found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> Agreement:
    """Compare what a file gave with what the checkpoint gives.

    Args:
        file: The exported file.
        found: Its outputs, (N, D) float32 each.
        expected: The checkpoint's.

    Raises:
        ExportError: If the file gave something of another shape, or values that are no numbers.
    """
    shapes, wanted = [array.shape for array in found], [array.shape for array in expected]
    if shapes != wanted:
        raise ExportError(f"{file.name}: gives arrays of shapes {shapes}, not {wanted}; {_END}")
    if not all(np.isfinite(array).all() for array in found):
        raise ExportError(f"{file.name}: gives values that are not finite; {_END}")
    pairs = list(zip(found, expected, strict=True))
    return Agreement(
        largest_difference=max(float(np.abs(a - b).max()) for a, b in pairs),
        least_cosine=min(float((normalize_rows(a) * normalize_rows(b)).sum(1).min()) for a, b in pairs),
    )


def run_in_fresh_process(
    files: Sequence[Path], inputs: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[Path, list[np.ndarray]]:
    """Run files of one format, all in one new process, in batches of `BATCH_SIZES`; return the outputs of each.

    Args:
        files: The exported files.
        inputs: Stem of a file to its inputs by name, sum(BATCH_SIZES) rows each.

    Raises:
        ExportError: If the process fails; the message names the file that it was at.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "inputs", Path(folder) / "outputs"
        given.mkdir()
        found.mkdir()
        for file in files:
            np.savez(given / f"{file.stem}.npz", **inputs[file.stem])
        arguments = [given, found, ",".join(map(str, BATCH_SIZES)), *files]
        command = child_command(runner.__name__, *arguments)
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ExportError(_failure(files, done))
        return {file: _arrays(found / f"{file.name}.npz") for file in files}


def check(file: Path, agreement: Agreement, precision: str) -> None:
    """Hold a file to its tolerance.

    Raises:
        ExportError: If it differs from the checkpoint by more.
    """
    if precision == "int8":
        if not agreement.least_cosine >= LEAST_COSINE:
            cosine = f"{agreement.least_cosine:.4f}, less than {LEAST_COSINE}"
            raise ExportError(f"{file.name}: its least cosine similarity to the checkpoint is {cosine}; {_END}")
    elif not agreement.largest_difference <= TOLERANCE:
        difference = f"{agreement.largest_difference:.1e}, more than {TOLERANCE:.0e}"
        raise ExportError(f"{file.name}: its largest difference from the checkpoint is {difference}; {_END}")


def _arrays(file: Path) -> list[np.ndarray]:
    with np.load(file) as arrays:
        return [arrays[name] for name in arrays.files]


def _failure(files: Sequence[Path], done: subprocess.CompletedProcess) -> str:
    """Word how the child ended: at which file, and with which exception; MindSpore prints more behind that."""
    begun = [file.name for file in files if f"running {file.name}" in done.stdout]
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if _EXCEPTION.match(line)]
    how = f"signal {-done.returncode}" if done.returncode < 0 else f"code {done.returncode}"
    reason = (errors or lines or ["it said nothing"])[0][:200]
    return f"{(begun or [files[0].name])[-1]}: was written, and cannot be loaded and run ({how}: {reason})"
