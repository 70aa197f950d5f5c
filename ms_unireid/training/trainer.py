"""The trainer: epochs, evaluation, best and last checkpoints, interruption and resume."""

import dataclasses
import math
import signal
import sys
import time
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import Tensor
from tqdm import tqdm

from ms_unireid.config import TASKS, Config, to_dict
from ms_unireid.data.annotations import Annotation, training_pairs
from ms_unireid.data.loading import load_splits
from ms_unireid.data.pipeline import TrainingSource, iterate
from ms_unireid.data.samplers import epoch_batches
from ms_unireid.data.tokenizer import Tokenizer
from ms_unireid.data.transforms import TrainTransform
from ms_unireid.data.tri_pedes import available_splits
from ms_unireid.errors import ConfigError, Interrupted, UserError
from ms_unireid.evaluation.evaluator import Results, evaluate_features, to_json, to_table
from ms_unireid.evaluation.features import FeatureExtractor
from ms_unireid.models.unireid import build_model
from ms_unireid.training.checkpoint import fill, load_pretrained, read_checkpoint, save_checkpoint
from ms_unireid.training.optimizer import learning_rates
from ms_unireid.training.run_folder import RunFolder
from ms_unireid.training.train_step import TrainStep


class _StopRequest:
    """Notes SIGINT and SIGTERM while active; a second one acts at once, as without us."""

    def __init__(self, advice: str) -> None:
        self.advice = advice
        self.signal_number: int | None = None
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> "_StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self.previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, _frame: object) -> None:
        self.signal_number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise Interrupted if a signal came."""
        if self.signal_number is not None:
            raise Interrupted(self.signal_number, self.advice)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The data of a run and how it is judged."""

    splits: dict[str, tuple[Annotation, ...]]
    reported: tuple[str, ...]
    selection: str


def plan_data(config: Config) -> _Plan:
    """Load the annotations of every split the run touches and check that their pictures are there and whole.

    Raises:
        DataError: For anything wrong with the data set.
        ConfigError: If the selection split does not exist.
    """
    data, evaluation = config.data, config.eval
    present = available_splits(data.name, Path(data.root))
    selection = evaluation.selection_split
    if selection == "auto":
        selection = "val" if "val" in present else "test"
    if selection not in present:
        raise ConfigError(
            f"eval.selection_split={selection}: {data.name} has only {', '.join(present)}; choose one of them"
        )
    asked = evaluation.splits if evaluation.splits is not None else tuple(s for s in ("val", "test") if s in present)
    reported = tuple(dict.fromkeys((*asked, selection)))
    needed = tuple(dict.fromkeys(("train", *reported)))
    return _Plan(load_splits(data, needed), reported, selection)


class Trainer:
    """Trains and evaluates one config; `fit` runs it to the end or to an interruption.

    Args:
        config: The experiment.
        environment: Versions and device, kept beside the results.

    Raises:
        UserError: For anything wrong with config, data, run folder or checkpoint, before training starts.
    """

    def __init__(self, config: Config, environment: dict[str, Any]):
        self.config = config
        resume = config.train.resume
        self.folder = RunFolder(resume or config.train.output)
        if resume:
            self.folder.check_resumable(config)
        else:
            self.folder.check_unused()
        self.plan = plan_data(config)
        self.pairs = training_pairs(self.plan.splits["train"])
        self.person_ids = [pair.person_id for pair in self.pairs]
        self.batches_of(1)
        self.rates = learning_rates(config.train)
        self.tokenizer = Tokenizer(config.model.context_length)
        self.transform = TrainTransform(config.model.image_size, config.data.augment)

        self.model = build_model(config.model, config.train.seed)
        if config.model.pretrained and not (resume and self.folder.last.exists()):
            load_pretrained(self.model, config.model.pretrained, config.model)
        self.step = TrainStep(self.model, config)
        self.stop = _StopRequest(f"go on with train.resume={self.folder.root}")
        self.extractor = FeatureExtractor(self.model, config, lambda done, total: self.stop.check())
        self.epoch, self.done, self.global_step = 1, 0, 0
        if resume:
            self._restore()
        else:
            self.folder.create(config, environment)
        self.results = self.folder.results()

    def batches_of(self, epoch: int) -> list[Any]:
        """Draw the batches of an epoch (1-based).

        Raises:
            DataError: If the split cannot fill a batch.
        """
        return epoch_batches(self.person_ids, self.config.data, self.config.train.seed, epoch)

    def fit(self) -> dict[str, Any]:
        """Train what is left of the run and return the contents of results.json.

        Raises:
            Interrupted: After a signal; the state is saved.
            UserError: For a picture that cannot be read, a full disk, or a loss that is not finite.
        """
        steps = len(self.batches_of(1))
        size = self.config.data.batch_size
        with (
            self.stop,
            tqdm(
                total=self.config.train.epochs * steps * size,
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
        return self.results

    def _train_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        batches = self.batches_of(epoch)
        left = batches[self.done :]
        if left:
            try:
                self._train_batches(epoch, left)
            except Interrupted:
                self._save_last()
                raise
            self._save_last()
        self.done = 0

    def _train_batches(self, epoch: int, batches: list[Any]) -> None:
        self.step.set_train()
        rate = Tensor(self.rates[epoch - 1], ms.float32)
        seed = self.config.train.seed
        source = TrainingSource(self.pairs, batches, self.transform, self.tokenizer, seed, epoch)
        clock, seen = time.perf_counter(), 0
        for images, sketches, token_ids in iterate(source, self.config.runtime):
            loss, parts = self.step(Tensor(images), Tensor(sketches), Tensor(token_ids), rate)
            self.done += 1
            self.global_step += 1
            seen += len(images)
            self.bar.update(len(images))
            value = self._checked_loss(epoch, loss)
            if self.global_step % self.config.train.log_every == 0 or self.done == 1:
                self._log_step(epoch, value, parts, seen / (time.perf_counter() - clock))
                clock, seen = time.perf_counter(), 0
            self.stop.check()

    def _checked_loss(self, epoch: int, loss: Tensor) -> float:
        value = float(loss.asnumpy())
        if not math.isfinite(value):
            raise UserError(
                f"{self.folder.root}: the loss is {value} at epoch {epoch}, step {self.global_step}; lower "
                "train.learning_rate or raise train.eps. last.ckpt is of an earlier step"
            )
        self.bar.set_postfix({"epoch": epoch, "loss": f"{value:.3f}"}, refresh=False)
        return value

    def _log_step(self, epoch: int, loss: float, parts: tuple[Tensor, ...], rate: float) -> None:
        values = {name: float(part.asnumpy()) for name, part in zip(self.step.part_names, parts, strict=True)}
        self.folder.log(
            {
                "kind": "step",
                "epoch": epoch,
                "step": self.global_step,
                "learning_rate": self.rates[epoch - 1],
                "loss": loss,
                **values,
                "pairs_per_second": round(rate, 2),
            }
        )

    def _evaluate(self, epoch: int) -> None:
        if any(entry["epoch"] == epoch for entry in self.results["evaluations"]):
            return
        self.model.set_train(False)
        start = time.perf_counter()
        splits = {name: evaluate_features(self.extractor.split(self.plan.splits[name])) for name in self.plan.reported}
        self.model.set_train(True)
        rows = {name: to_json(results) for name, results in splits.items()}
        entry = {"epoch": epoch, "seconds": round(time.perf_counter() - start, 2), "splits": rows}
        self._keep_best(epoch, splits[self.plan.selection], rows)
        self.results["evaluations"].append(entry)
        self.results["selection_split"] = self.plan.selection
        self.folder.log({"kind": "evaluation", "step": self.global_step, **entry})
        self.folder.write_results(self.results)
        title = f"epoch {epoch}, {self.plan.selection}"
        self.bar.write(f"{title}\n{to_table(rows[self.plan.selection])}", file=sys.stderr)

    def _keep_best(self, epoch: int, results: Results, rows: dict[str, Any]) -> None:
        text_protocol = self.config.eval.selection_text_protocol
        scores = {
            "text": results["text", text_protocol].R1,
            "sketch": results["sketch", "exclude_source_photo"].R1,
            "fusion": results["fusion", "exclude_source_photo"].R1,
        }
        scores["average"] = sum(scores[task] for task in TASKS) / len(TASKS)
        for task, score in scores.items():
            best = self.results["best"].get(task)
            if best is None or score > best["R1"]:
                entry = {"epoch": epoch, "R1": score, "splits": rows}
                save_checkpoint(self.folder.best(task), self.model.get_parameters(), self._meta(task=task, **entry))
                self.results["best"][task] = {"checkpoint": self.folder.best(task).name, **entry}

    def _meta(self, **values: Any) -> dict[str, Any]:
        return {"config": to_dict(self.config), **values}

    def _save_last(self) -> None:
        position = {"epoch": self.epoch, "done": self.done, "step": self.global_step}
        save_checkpoint(self.folder.last, self._state(), self._meta(**position))

    def _state(self) -> list[ms.Parameter]:
        optimizer = self.step.optimizer
        powers = [optimizer.beta1_power, optimizer.beta2_power]
        return [*self.model.get_parameters(), *optimizer.exp_avg, *optimizer.exp_avg_sq, *powers]

    def _restore(self) -> None:
        if not self.folder.last.exists():
            # Stopped before the first epoch ended by something that left no time to save: start over.
            self.folder.rewind_log(0)
            return
        checkpoint = read_checkpoint(self.folder.last)
        fill(self._state(), checkpoint)
        meta = checkpoint.meta
        self.epoch, self.done, self.global_step = meta["epoch"], meta["done"], meta["step"]
        self.folder.rewind_log(self.global_step)
