"""The trainer: epochs, evaluation, best and last checkpoints, interruption and resume."""

import contextlib
import math
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import ops
from tqdm import tqdm

from ms_unireid.checkpoints.checkpoint import fill, load_pretrained, read_checkpoint, save_checkpoint
from ms_unireid.config import Config, to_dict
from ms_unireid.distributed import StopRequest, any_process, broadcast_parameters
from ms_unireid.errors import CheckpointError, Interrupted, UserError
from ms_unireid.evaluation.encoder import Encoder
from ms_unireid.evaluation.evaluator import evaluate_features, to_json, to_table
from ms_unireid.evaluation.figures import draw_ranked_lists
from ms_unireid.files import write_json
from ms_unireid.models.unireid import build_model
from ms_unireid.runtime import ALONE, Processes, check_batch_size
from ms_unireid.training.loss_scale import TooManyOverflows
from ms_unireid.training.monitor import BAR_FORMAT, Monitor, StepProfiler
from ms_unireid.training.optimizer import learning_rates
from ms_unireid.training.run_data import RunData
from ms_unireid.training.run_folder import improved, open_folder, selection_scores
from ms_unireid.training.train_step import TrainOneStepCell


class Trainer:
    """Trains and evaluates one config; `fit` runs it to the end or to an interruption.

    `environment`, versions and device, is kept beside the results. Each of the processes that train together makes a
    Trainer of the same config. Anything wrong with config, data, run folder or checkpoint raises a UserError here,
    before training starts.
    """

    def __init__(self, config: Config, environment: dict[str, Any], processes: Processes = ALONE):
        self.config, self.processes = config, processes
        check_batch_size(config, processes)
        self.folder, resumed = open_folder(config)
        changes = self.folder.check_resumable(config) if resumed else {}
        self.data = RunData(config, processes)
        self.rates_per_epoch = 1 if config.train.warmup_steps is None else self.data.steps(1)
        self.rates = learning_rates(config, 1.0, self.rates_per_epoch)
        self.bias_rates = learning_rates(config, config.train.bias_lr_factor, self.rates_per_epoch)
        self.model = build_model(config.model, config.train.seed, config.runtime)
        if config.model.pretrained and not (resumed and self.folder.has_state()):
            load_pretrained(self.model, config.model.pretrained, config.model)
        self.step = TrainOneStepCell(self.model, config, processes)
        self.stop = StopRequest(f"resume with train.resume={self.folder.root}", processes)
        self.encoder = Encoder(self.model, config, lambda done, total: self.stop.check(), processes, self.data.load)
        self.epoch, self.done, self.global_step = 1, 0, 0
        self.fell_back = False
        profiled = config.train.profile_steps if processes.first else None
        self.profiler = StepProfiler(profiled, self.folder.root / "profile")
        # The values of steps stay on the device: only one that logs or saves waits for it and for other processes.
        self.unread, self.reads_each_step = [], ms.get_context("device_target") == "CPU"
        with contextlib.ExitStack() as lock:
            if resumed and processes.first:
                lock.enter_context(self.folder.locked())
            if resumed:
                self._restore()
            broadcast_parameters(self._state(), processes)
            any_process(False, processes)  # no process writes before all have checked the folder
            if resumed and processes.first:
                self._prepare_resumed(changes)
            elif processes.first:
                lock.enter_context(self.folder.locked())
                self.folder.check_unused()
                self.folder.create(config, {**environment, "operations": asdict(self.model.operations)})
            any_process(False, processes)
            self.results = self.folder.results(self._scores) if resumed else {"best": {}, "evaluations": []}
            self.results["selection_split"] = self.data.selection
            self.monitor = Monitor(self.folder, config, self.results, self.global_step) if processes.first else None

    def _prepare_resumed(self, changes: dict[str, Any]) -> None:
        if self.fell_back:
            self.folder.fall_back()
        finished = self.done >= self.data.steps(self.epoch)
        self.folder.rewind(self.global_step, self.epoch if finished else self.epoch - 1)
        self.folder.accept(changes, self.global_step)

    def fit(self) -> dict[str, Any]:
        """Train what is left of the run and return the contents of results.json.

        Interrupted after a signal, with the state saved; UserError for a picture that cannot be read, a full disk, or a
        loss that is not finite.
        """
        size = self.config.data.batch_size
        for told in self.data.notes() if self.processes.first else ():
            print(told, file=sys.stderr)
        with (
            self.folder.locked() if self.processes.first else contextlib.nullcontext(),
            self.stop,
            contextlib.closing(self.profiler),
            tqdm(
                disable=not self.processes.first,
                bar_format=BAR_FORMAT,
                total=self.config.train.epochs * self.data.steps(1) * size,
                initial=self.global_step * size,
                unit="pair",
                unit_scale=True,
                dynamic_ncols=True,
                mininterval=1.0 if sys.stderr.isatty() else 20.0,
            ) as self.bar,
        ):
            for epoch in range(self.epoch, self.config.train.epochs + 1):
                self._train_epoch(epoch)
                if epoch % self.config.train.eval_every == 0 or epoch == self.config.train.epochs:
                    self._evaluate(epoch)
        if self.monitor:
            self.monitor.close()
            print(self.monitor.summary_line(self.results), file=sys.stderr)
        return self.results

    def _train_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        steps = self.data.steps(epoch)
        if self.done < steps:
            try:
                self._train_batches(epoch, steps)
            except Interrupted:
                self._save_last()
                raise
            self._save_last()
        self.done = 0

    def _train_batches(self, epoch: int, steps: int) -> None:
        self.step.set_train()
        clock, seen, words = time.perf_counter(), 0, 1 + len(self.config.data.modalities)  # where the token ids stand
        for batch in self.data.epoch(epoch, self.done):
            self.done += 1
            self.global_step += 1
            at = self._rate_index(epoch)
            with self.profiler.step(self.global_step):
                pictures = batch[1] if words == 2 else tuple(batch[1:words])
                given = batch[0], pictures, batch[words], self.rates[at], self.bias_rates[at]
                extras = dict(zip(self.data.extras, batch[words + 1 :], strict=True))
                self.unread.append(self.step(*given, **extras).values)
            pairs = len(batch[0]) * self.processes.size
            seen += pairs
            self.bar.update(pairs)
            logs = self.global_step % self.config.train.log_every == 0 or self.done == 1
            values = self._read_steps() if logs or self.reads_each_step else {}
            if logs:
                self._log_step(epoch, values, seen / (time.perf_counter() - clock))
                clock, seen = time.perf_counter(), 0
            if values or self.processes.size == 1:
                self.stop.check()
            self._save_within_epoch(left=steps - self.done)

    def _read_steps(self) -> dict[str, float]:
        """Read the values of the steps since the last reading, all at once; return those of the last one.

        UserError if a loss is not finite, or after too many overflows.
        """
        rows = ops.concat(self.unread).asnumpy().reshape(len(self.unread), -1).tolist() if self.unread else []
        self.unread.clear()
        steps = [self._checked(row, back) for back, row in zip(reversed(range(len(rows))), rows, strict=True)]
        return steps[-1] if steps else {}

    def _checked(self, row: list[float], back: int) -> dict[str, float]:
        """Name the values of the step taken `back` steps ago; a UserError says what `_read_steps` says."""
        values = dict(zip(self.step.value_names, row, strict=True))
        place = f"at epoch {self.epoch}, step {self.global_step - back}"
        try:
            self.step.loss_scale.check(values.pop("in_a_row", 0), values.get("loss_scale", 1))
        except TooManyOverflows as error:
            raise UserError(f"{self.folder.root}: {place} {error}; {self._bad_batch(back)}") from error
        if not math.isfinite(values["loss"]):
            advice = f"lower train.learning_rate or raise train.eps; {self._bad_batch(back)}"
            raise UserError(f"{self.folder.root}: the loss is {values['loss']} {place}; {advice}")
        return values

    def _rate_index(self, epoch: int) -> int:
        """Find the rate of step `done`; a sampler may draw a batch more than in the first epoch."""
        return (epoch - 1) * self.rates_per_epoch + min(self.done, self.rates_per_epoch) - 1

    def _bad_batch(self, back: int) -> str:
        """List the pairs of the batch trained `back` steps ago in a file, for the user to look at."""
        if self.processes.first:
            step, pairs = self.global_step - back, self.data.describe_batch(self.epoch, self.done - back)
            write_json(self.folder.bad_batch_file, {"epoch": self.epoch, "step": step, "pairs": pairs})
        state = "last.ckpt is of an earlier step" if self.folder.has_state() else "no state was saved yet"
        return f"its batch is listed in {self.folder.bad_batch_file}; {state}"

    def _log_step(self, epoch: int, values: dict[str, float], speed: float) -> None:
        if not self.monitor:
            return
        entry = {
            "kind": "step",
            "epoch": epoch,
            "step": self.global_step,
            "learning_rate": self.rates[self._rate_index(epoch)],
            **{name: value if math.isfinite(value) else None for name, value in values.items()},
            "pairs_per_second": round(speed, 2),
        }
        self.folder.log(entry)
        self.monitor.step(entry)
        self.bar.set_postfix_str(self.monitor.postfix(), refresh=False)

    def _evaluate(self, epoch: int) -> None:
        others = [entry for entry in self.results["evaluations"] if entry["epoch"] != epoch]
        if len(others) < len(self.results["evaluations"]) and "average" in self.results["best"]:
            return
        start = time.perf_counter()
        self.model.set_train(False)
        with self.step.averaged():
            feats = {name: self.encoder.encode(self.data.evaluation_set(name)) for name in self.data.reported}
            settings = self.config.eval
            rows = {name: to_json(evaluate_features(found, settings=settings)) for name, found in feats.items()}
            self._keep_best(epoch, rows)
        self.model.set_train(True)
        entry = {"epoch": epoch, "seconds": round(time.perf_counter() - start, 2), "splits": rows}
        self.results["evaluations"] = [*others, entry]
        if self.monitor:
            line = {"kind": "evaluation", "step": self.global_step, **entry}
            self.folder.log(line)
            self.folder.write_results(self.results)
            self.monitor.evaluation(line, self.results)
            split = self.data.selection
            picture = self.folder.root / f"ranked_{split}.png"
            draw_ranked_lists(feats[split], self.data.evaluation_set(split), picture)
            self.bar.write(f"epoch {epoch}, {split}\n{to_table(rows[split])}", file=sys.stderr)

    def _keep_best(self, epoch: int, rows: dict[str, Any]) -> None:
        scores = self._scores(rows)
        for task in improved(scores, self.results["best"]):
            entry = {"epoch": epoch, "R1": scores[task], "splits": rows}
            if self.processes.first:
                meta = self._meta(task=task, **entry)
                save_checkpoint(self.folder.best(task), self.model.get_parameters(), meta)
            self.results["best"][task] = {"checkpoint": self.folder.best(task).name, **entry}

    def _scores(self, rows: dict[str, Any]) -> dict[str, float]:
        return selection_scores(rows[self.data.selection], self.config.eval.selection_text_protocol)

    def _meta(self, **values: Any) -> dict[str, Any]:
        return {"config": to_dict(self.config), **values}

    def _save_within_epoch(self, left: int) -> None:
        """Save every `checkpoint_every` steps; the end of the epoch, `left` steps away, saves in any case."""
        every = self.config.train.checkpoint_every
        if every is not None and left and self.global_step % every == 0:
            self._save_last()

    def _save_last(self) -> None:
        self._read_steps()  # no state is saved before the losses that led to it were looked at
        if self.processes.first:
            position = {"epoch": self.epoch, "done": self.done, "step": self.global_step}
            meta = self._meta(**position, pairs=self.data.digest, loss_scale=self.step.loss_scale.state())
            save_checkpoint(self.folder.next, self._state(), meta)
            self.folder.rotate()

    def _state(self) -> list[ms.Parameter]:
        return [*self.model.get_parameters(), *self.step.state()]

    def _restore(self) -> None:
        """Restore the newest state that can be read; without one, the run starts from the beginning."""
        if not self.folder.has_state():
            return
        try:
            meta = self._restore_from(self.folder.last)
        except CheckpointError as damage:
            if not self.folder.previous.exists():
                raise
            meta = self._fall_back(damage)
        self.epoch, self.done, self.global_step = meta["epoch"], meta["done"], meta["step"]
        self.step.loss_scale.restore(meta.get("loss_scale", {}))

    def _fall_back(self, damage: CheckpointError) -> dict[str, Any]:
        """Restore previous.ckpt, with a warning on stderr, because last.ckpt is damaged or missing."""
        try:
            meta = self._restore_from(self.folder.previous)
        except CheckpointError as error:
            raise CheckpointError(
                f"neither state of the run can be read: {damage}; {error}; restore a copy of one of them, or delete "
                "both to train the run again from its start"
            ) from error
        self.fell_back = True
        place = f"{self.folder.previous} (epoch {meta['epoch']}, step {meta['step']})"
        print(f"warning: {' '.join(str(damage).split())}; resuming from {place}", file=sys.stderr)
        return meta

    def _restore_from(self, file: Path) -> dict[str, Any]:
        """Fill the state from a file of this run and return its description.

        CheckpointError if the file is damaged; ConfigError if it is of a run with other values or data.
        """
        checkpoint = read_checkpoint(file)
        self.folder.check_state(file, checkpoint.meta, self.config)
        self.data.check_state(file, checkpoint.meta)
        fill(self._state(), checkpoint)
        return checkpoint.meta
