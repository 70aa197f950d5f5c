"""Reproduces a table of the paper: trains its runs, evaluates them and writes the table."""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import ops

from ms_unireid.apps.paper.table_plan import (
    PlannedLine,
    PlannedRun,
    TableRequest,
    check_runs,
    check_targets,
    plan_table,
    runs_of,
)
from ms_unireid.apps.paper.table_report import Line, draw_curves, make_line, write_report
from ms_unireid.config import Config, DataConfig
from ms_unireid.errors import CheckpointError, UserError
from ms_unireid.evaluation.checkpoint_evaluation import CheckpointEvaluator
from ms_unireid.evaluation.evaluator import ROW, to_json
from ms_unireid.files import read_json, sha256, write_json
from ms_unireid.runtime import ALONE, Processes
from ms_unireid.training.run_folder import RunFolder

SPLIT = "test"
SUFFIXES = (".ckpt", ".pth", ".pt", ".safetensors")


@dataclass(frozen=True)
class CheckpointChoice:
    """The checkpoints that fill a table, and the data sets that they are evaluated on.

    Attributes:
        select: `task` takes the best checkpoint of each task, as the authors do; `average` the best average; `last` the
            last one.
        targets: Data sets for evaluation only, by name.
        checkpoints: A folder of checkpoints to evaluate instead of training: DATASET/ROW.ckpt, or the files of runs,
            DATASET/ROW/seed_N/best_*.ckpt.
    """

    select: str = "task"
    targets: dict[str, DataConfig] = dataclasses.field(default_factory=dict)
    checkpoints: Path | None = None


def reproduce(
    request: TableRequest,
    choice: CheckpointChoice,
    train: Callable[[Config], dict[str, Any]],
    report: Callable[[str], None],
    processes: Processes = ALONE,
) -> list[Line]:
    """Train the missing runs of a table, resume interrupted ones, evaluate all, and write table_N.* to the output.

    Finished runs are kept, and evaluations of unchanged checkpoints.

    Args:
        request: The table.
        choice: The checkpoints to evaluate, and the data sets.
        train: Trains one config.
        report: Called with a line of progress.
        processes: The processes that train together; all call this, the first evaluates and writes.

    Returns:
        The lines of the table; empty in all processes but the first.

    Raises:
        ConfigError: If a table, row or data set is unknown or missing, or a run was trained with other values.
        Interrupted: After a signal; the same command resumes.
        UserError: From training or evaluation.
    """
    plan = plan_table(request)
    check_targets(plan, choice.targets)
    if choice.checkpoints is None:
        check_runs(request.output, runs := runs_of(plan))
        for number, run in enumerate(runs, start=1):
            finished = run.folder.finished_results(run.config.train.epochs) is not None
            place = f"run {number} of {len(runs)}: {run.dataset}, {run.row}, seed {run.config.train.seed}"
            report(f"{place}: {'finished' if finished else 'training'}")
            if not finished:
                train(run.config)
    if not processes.first:
        return []
    lines = [_fill(line, choice, report) for line in plan]
    write_report(request.output, request.table, lines, {"select": choice.select, "split": SPLIT})
    if choice.checkpoints is None:
        draw_curves(request.output / f"table_{request.table}.png", plan, SPLIT)
    return lines


def _fill(line: PlannedLine, choice: CheckpointChoice, report: Callable[[str], None]) -> Line:
    """Evaluate the runs of a line, and note the reason where one is missing."""
    scores, missing = {}, []
    # A run keeps no best checkpoint of each of ORBench's tasks; the published rows are of one model too.
    best = "average" if line.paper.protocol == "orbench" else line.paper.task
    for run in line.runs:
        files = _checkpoints(run, best, choice)
        if not files:
            missing.append(f"no checkpoint for seed {run.config.train.seed}")
            continue
        rows = evaluation_of(files[0], run, choice.targets.get(line.paper.dataset), report)
        found = [r for r in rows if (r["task"], r["protocol"]) == (line.paper.task, line.paper.protocol)]
        if found:
            scores[run.config.train.seed] = found[0]
        else:
            missing.append(f"{files[0]}: no {line.paper.task} queries under {line.paper.protocol}")
    return make_line(line.paper, scores, "; ".join(missing))


def _checkpoints(run: PlannedRun, task: str, choice: CheckpointChoice) -> list[Path]:
    """List the files that may fill a line, in order of preference."""

    def stem(folder: RunFolder) -> Path:
        kept = {"task": folder.best(task), "average": folder.best("average"), "last": folder.last}[choice.select]
        return kept.with_suffix("")

    if choice.checkpoints is None:
        places = [stem(run.folder)]
    else:
        row = choice.checkpoints / run.dataset / run.row
        places = [stem(RunFolder(row / f"seed_{run.config.train.seed}")), stem(RunFolder(row)), row]
    candidates = [place.with_name(place.name + suffix) for place in places for suffix in SUFFIXES]
    return [file for file in candidates if file.is_file()]


def evaluation_of(
    checkpoint: Path, run: PlannedRun, target: DataConfig | None, report: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Evaluate a checkpoint under the paper's protocols, or read the saved results of the same file.

    The results are saved in the run's folder; `target` is the data set if it is not the run's own.

    Raises:
        UserError: If checkpoint or data set are wrong, or the results cannot be written.
    """
    data = target or run.config.data
    kept = run.folder.root / "evaluations" / f"{data.name}_{SPLIT}_{checkpoint.stem}.json"
    about = {"checkpoint": checkpoint.name, "sha256": _digest(checkpoint), "dataset": data.name, "split": SPLIT}
    with contextlib.suppress(UserError):  # missing or damaged: evaluated again
        known = read_json(kept, {"rows": [ROW]}, "")
        if known.items() >= about.items():
            return known["rows"]
    report(f"evaluating {checkpoint} on {data.name}")
    rows = to_json(CheckpointEvaluator(checkpoint, overrides=_overrides(run)).evaluate(SPLIT, data=data).results)
    write_json(kept, {**about, "rows": rows})
    return rows


def _overrides(run: PlannedRun) -> list[str]:
    """Return the device and batch size of the run; the rest of the config is the checkpoint's."""
    runtime = run.config.runtime
    choices = {"device": runtime.device, "device_id": runtime.device_id, "workers": runtime.workers}
    return [*(f"runtime.{k}={v}" for k, v in choices.items()), f"eval.batch_size={run.config.eval.batch_size}"]


def _digest(path: Path) -> str:
    try:
        return sha256(path.open("rb"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


def multiplication_rate(seconds: float = 0.5) -> float:
    """Measure the floating-point operations per second of float32 matrix products of a tower's size."""
    size, multiply = 768, ops.MatMul()
    a = ops.ones((size, size), ms.float32)
    multiply(a, a).asnumpy()
    done, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        multiply(a, a).asnumpy()
        done += 1
    return done * 2 * size**3 / spent
