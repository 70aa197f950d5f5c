"""Progress of a run: the progress bar's text, event files for TensorBoard, learning curves, and the final line."""

import contextlib
import math
import os
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from ms_unireid.config import Config
from ms_unireid.errors import EnvironmentProblem, UserError
from ms_unireid.evaluation.evaluator import format_mean
from ms_unireid.evaluation.metrics import METRICS
from ms_unireid.installation import install_extra
from ms_unireid.training.curves import draw_curves
from ms_unireid.training.run_folder import RunFolder, selection_scores

# For tqdm: leaves 61 of 100 columns for the postfix, which contains the epoch.
BAR_FORMAT = "{percentage:3.0f}%|{bar}| {elapsed}<{remaining} {rate_fmt}{postfix}"
SHORT_NAMES = {"loss_text": "T", "loss_sketch": "S", "loss_fusion": "F", "interaction": "c"}


class StepProfiler:
    """Records the steps of `train.profile_steps` with MindSpore's profiler, under `folder`; problems are only logged.

    A run that is resumed within the steps records those that are left.
    """

    def __init__(self, steps: tuple[int, int] | None, folder: Path):
        self.first, self.last = steps or (0, 0)
        self.folder, self.profile = folder, None

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Surround a step of the run, counted from 1."""
        if self.profile is None and self.first <= number <= self.last:
            self.profile = self._started(self.last - number + 1)
        yield
        if self.profile:
            self.profile.step()
            if number == self.last:
                self.close()

    def close(self) -> None:
        """Write what is recorded, after the last step or where training ends before it."""
        if self.profile:
            self.profile.stop()
            self.profile = None

    def _started(self, count: int) -> Any:
        from mindspore.profiler import profile, schedule, tensorboard_trace_handler

        return profile(
            schedule=schedule(wait=0, warmup=0, active=count, repeat=1),
            on_trace_ready=tensorboard_trace_handler(str(self.folder)),
        )


class Monitor:
    """Shows each log entry of a run, in the process that writes the log, and draws `curves.png`.

    With `train.tensorboard` it writes event files, which continue after `step`; `results` is the content of
    results.json. EnvironmentProblem if tensorboardX is needed and not installed; UserError, in every method, if a file
    cannot be written.
    """

    def __init__(self, folder: RunFolder, config: Config, results: dict[str, Any], step: int = 0):
        self.folder, self.config = folder, config
        self.start = time.monotonic()
        self.step_text, self.accuracy_text = "", self._accuracy(results)
        self.events = _EventFile(folder, step) if config.train.tensorboard else None

    def step(self, entry: dict[str, Any]) -> None:
        """Show an entry of kind `step`."""
        parts = [f"{short}{_fit(entry[key], 3)}" for key, short in SHORT_NAMES.items() if key in entry]
        self.step_text = " ".join([f"e{entry['epoch']}", f"loss {_fit(entry['loss'], 4)}", *parts])
        if self.events:
            named = {f"step/{key}": value for key, value in entry.items() if key not in ("kind", "epoch", "step")}
            self.events.write(entry["step"], named)

    def evaluation(self, entry: dict[str, Any], results: dict[str, Any]) -> None:
        """Show an entry of kind `evaluation`, with the new contents of results.json."""
        self.accuracy_text = self._accuracy(results)
        if self.events:
            self.events.write(entry["step"], dict(_scores(entry["splits"])))
        draw_curves(self.folder.log_file, self.folder.root / "curves.png")

    def postfix(self) -> str:
        """Return the text after the progress bar.

        It shows epoch, loss and its parts (T, S, F: the tasks; c: interaction), the latest R1 by text, sketch and both
        on the selection split, and the best average of the three.
        """
        return " ".join(text for text in (self.step_text, self.accuracy_text) if text)

    def summary_line(self, results: dict[str, Any]) -> str:
        """Return the final line of a run: epoch and scores of the best average, time, and folder."""
        best, split = results["best"]["average"], results["selection_split"]
        scores = ", ".join(f"{task} {format_mean(R1)}" for task, R1 in self._selected(best["splits"][split]).items())
        spent = timedelta(seconds=round(time.monotonic() - self.start))
        return (
            f"best average R1 {best['R1']:.2f} on {split} at epoch {best['epoch']} of {self.config.train.epochs} "
            f"({scores}); took {spent}; files in {self.folder.root}"
        )

    def close(self) -> None:
        """Close the event file, if there is one."""
        if self.events:
            self.events.close()

    def _accuracy(self, results: dict[str, Any]) -> str:
        if not results["evaluations"]:
            return ""
        latest = results["evaluations"][-1]["splits"][results["selection_split"]]
        scores = "/".join(_fit(R1, 4) for R1 in self._selected(latest).values())
        best = results["best"].get("average")
        return f"R1 {scores}" + (f" best {_fit(best['R1'], 4)}" if best else "")

    def _selected(self, rows: list[dict[str, Any]]) -> dict[str, float | None]:
        """Return the R1 that chooses each task's best checkpoint."""
        scores = selection_scores(rows, self.config.eval.selection_text_protocol)
        return {task: score for task, score in scores.items() if task != "average"}


class _EventFile:
    """Writes scalars for TensorBoard; an entry is on disk when `write` returns.

    tensorboardX's SummaryWriter writes in a thread that dies on a full disk, and the run then waits for it forever. Its
    EventsWriter, used here, writes in the caller's thread and raises an error.
    """

    def __init__(self, folder: RunFolder, step: int):
        self.messages, writer = _load_tensorboard()
        self.root = folder.root / "tensorboard"
        with self._reported():
            self.root.mkdir(parents=True, exist_ok=True)
            # The package names files by the second; a run resumed within a second needs another name.
            self.writer = writer(str(self.root / "events"), f".{os.getpid()}.{step}")
        if step:
            # TensorBoard then drops what the interrupted run wrote for later steps.
            log = self.messages.SessionLog(status=self.messages.SessionLog.START)
            self._append(step=step + 1, session_log=log)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        summary = self.messages.Event().summary
        for name, value in scalars.items():
            summary.value.add(tag=name, simple_value=math.nan if value is None else value)
        self._append(step=step, summary=summary)

    def close(self) -> None:
        with self._reported():
            self.writer.close()

    def _append(self, **content: Any) -> None:
        with self._reported():
            self.writer.write_event(self.messages.Event(wall_time=time.time(), **content))
            self.writer.flush()

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.root}: event files cannot be written ({error.strerror}); free disk space, or set "
                "train.tensorboard=false"
            ) from error


def _load_tensorboard() -> tuple[Any, Any]:
    """Return the module of the event messages and the class that writes them."""
    # MindSpore 2.7 sets this too, and fails to load after a protobuf that was loaded without it.
    os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")
    try:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2
    except ImportError as error:
        raise EnvironmentProblem(
            f"train.tensorboard=true: the writer cannot be loaded ({error}); install it with: "
            f"{install_extra('tensorboard')}, or set train.tensorboard=false"
        ) from error
    return event_pb2, EventsWriter


def _scores(splits: dict[str, list[dict[str, Any]]]) -> Iterator[tuple[str, float]]:
    for split, rows in splits.items():
        for row in rows:
            for metric in METRICS:
                yield f"eval/{split}/{row['task']}/{row['protocol']}/{metric}", row[metric]


def _fit(value: float | None, width: int) -> str:
    """Write a number with as many decimals as `width` characters hold; a dash for None."""
    if value is None:
        return "-"
    whole = len(f"{value:.0f}")
    return f"{value:.{max(0, width - whole - 1)}f}"
