"""`TrainOneStepCell`: forward, loss, gradient, reduction over processes and update of one batch."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn

from ms_unireid.adam import Adam
from ms_unireid.config import Config
from ms_unireid.distributed import GatherWithGradient, MeanOverProcesses
from ms_unireid.errors import ConfigError
from ms_unireid.losses import Objective
from ms_unireid.models.self_check import checked_operations
from ms_unireid.models.unireid import UNIReID
from ms_unireid.models.vision import to_device
from ms_unireid.runtime import ALONE, Processes
from ms_unireid.training.gradient import BatchGradient, CachedGradient, NetworkWithObjective, SplitGradient
from ms_unireid.training.loss_scale import LossScale
from ms_unireid.training.optimizer import ReduceGradients, Update
from ms_unireid.training.piecewise import PiecewiseEncoders, PiecewiseGradient


class StepResult(NamedTuple):
    """What a step computed before it changed the weights; it stays on the device until it is asked for.

    With several processes all values are means. `names` are `loss`, its parts (see `Objective`) and `gradient_norm`,
    the global norm before clipping; in mixed precision the loss scale's `reported` too, after the step.
    """

    loss: Tensor  # a scalar
    values: Tensor  # (n,) float32
    names: tuple[str, ...]

    def read(self) -> dict[str, float]:
        """Read all values at once."""
        return dict(zip(self.names, self.values.asnumpy().tolist(), strict=True))

    @property
    def parts(self) -> dict[str, float]:
        """The parts of the loss by name."""
        values = self.read()
        return {name: values[name] for name in self.names[1 : self.names.index("gradient_norm")]}

    @property
    def gradient_norm(self) -> float:
        """The global norm of the gradient."""
        return self.read()["gradient_norm"]

    @property
    def skipped(self) -> bool:
        """Whether an overflow in half precision kept the weights as they were."""
        return self.read().get("in_a_row", 0) > 0


class TrainOneStepCell(nn.TrainOneStepCell):
    """Trains a model, built by `build_model` with `config.runtime`, step by step.

    A step is one graph on devices; on a CPU, and with memory options, it is several. Each of the processes takes its
    part of every batch. A model that was built for another precision or form of the operations raises a ConfigError.
    """

    def __init__(self, model: UNIReID, config: Config, processes: Processes = ALONE):
        runtime, train = config.runtime, config.train
        wanted = checked_operations(runtime)
        if model.operations != wanted:
            raise ConfigError(
                f"the model was built with {model.operations}, the config needs {wanted}; build it with "
                "build_model(config.model, config.train.seed, config.runtime)"
            )
        gathers = train.global_batch_objective and processes.size > 1
        gather = GatherWithGradient(processes) if gathers else None
        objective = Objective(config.objective)
        network = NetworkWithObjective(model, objective, gather, config.data.modalities)
        params = ParameterTuple(network.trained_parameters())
        super().__init__(network, Adam(params, train))
        self.part_names, self.params, self.positives = objective.part_names, params, config.objective.positives
        self.pictures, self.tasks = config.data.modalities, len(config.objective.tasks)
        self.learning_rate, self.bias_factor = train.learning_rate, train.bias_lr_factor
        self.loss_scale = LossScale(runtime)
        self.value_names = ("loss", *self.part_names, "gradient_norm", *self.loss_scale.reported)
        self.gradient, sums = self._make_gradient(config)
        count = 1 + len(self.part_names)
        shapes = [*[()] * count, *(param.shape for param in params)]
        mean = MeanOverProcesses(shapes, processes) if processes.size > 1 else None
        reduce_gradients = ReduceGradients(count, self.loss_scale, mean, sums, wanted.form == "fast")
        self.update = Update(reduce_gradients, self.optimizer, train)
        self.averages = self.update.average.averages if self.update.averages else ()
        self.in_one_graph = isinstance(self.gradient, BatchGradient)

    def _make_gradient(self, config: Config) -> tuple[Any, ParameterTuple | None]:
        """Return the gradient that the config selects, and the parameters that sum it up, if any."""
        parts, train, form = (self.network, self.params, self.loss_scale), config.train, self.network.model.operations
        in_pieces = form.form == "fast" and not form.recompute and config.model.activation == "quick_gelu"
        if train.accumulation_steps > 1:
            gradient = SplitGradient(*parts, train.accumulation_steps)
        elif train.cache_chunk is not None:
            gradient = CachedGradient(*parts, train.cache_chunk, PiecewiseEncoders if in_pieces else None)
        elif in_pieces:
            return PiecewiseGradient(*parts), None
        else:
            return BatchGradient(*parts), None
        return gradient, gradient.sums

    def construct(self, learning_rate: Tensor, bias_rate: Tensor, *batch: Tensor) -> tuple[Tensor, Tensor]:
        """Take a step in one graph; return what `Update` returns."""
        values, grads = self.gradient(*batch)
        return self.update(learning_rate, bias_rate, *values, *grads)

    def __call__(
        self,
        images: np.ndarray | Tensor,
        sketches: np.ndarray | Tensor | Sequence,
        token_ids: np.ndarray | Tensor,
        learning_rate: float | None = None,
        bias_rate: float | None = None,
        persons: np.ndarray | Tensor | None = None,
        present: np.ndarray | None = None,
    ) -> StepResult:
        """Take one step; nothing is read from the device.

        Overflows in mixed precision do not raise: `loss_scale.state` tells how many there were in a row.

        Photos and sketches are normalised, float32 (B, 3, H, W), or as `TrainingSource` gives them, uint8 (B, 4, H, W);
        with other than one of `data.modalities`, `sketches` is a tuple of an array for each. Captions are (B, L) int32.
        Without a rate, `train.learning_rate` is taken; without one for biases, `train.bias_lr_factor` times the other.
        `persons`, (B,) int32 below 2^24, say which pairs show one person. Without them `objective.positives` other than
        `pair` raises a ConfigError; `pair` ignores them. `present`, (B, tasks) float32, has 0 where a pair lacks what a
        task of `objective.tasks` asks with, else 1: such a pair does not count in the task's loss. None: all are whole.
        """
        batch = self._on_device(images, sketches, token_ids, persons, present)
        rate = self.learning_rate if learning_rate is None else learning_rate
        rates = [Tensor(r, ms.float32) for r in (rate, self.bias_factor * rate if bias_rate is None else bias_rate)]
        if self.in_one_graph:
            return StepResult(*super().__call__(*rates, *batch), self.value_names)
        values, grads = self.gradient(*batch)
        return StepResult(*self.update(*rates, *values, *grads), self.value_names)

    def gradients(
        self,
        images: np.ndarray | Tensor,
        sketches: np.ndarray | Tensor | Sequence,
        token_ids: np.ndarray | Tensor,
        persons: np.ndarray | Tensor | None = None,
        present: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """Return the gradient of a batch's loss by parameter name, float32, and change nothing; arguments as in a step.

        It is the mean over processes, before clipping and weight decay.
        """
        batch = self._on_device(images, sketches, token_ids, persons, present)
        values, grads = self.gradient(*batch)
        _, grads, _ = self.update.reduce_gradients(*values, *grads)
        return {param.name: grad.asnumpy() for param, grad in zip(self.params, grads, strict=True)}

    def state(self) -> list[Parameter]:
        """List the state that a resumed run needs besides the model's parameters and the loss scale."""
        adam = self.optimizer
        return [*adam.exp_avg, *adam.exp_avg_sq, adam.beta1_power, adam.beta2_power, *self.averages]

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Replace the weights by their moving average, if there is one, within a `with` block."""
        if not self.averages:
            yield
            return
        own = [p.asnumpy().copy() for p in self.params]
        for param, average in zip(self.params, self.averages, strict=True):
            param.set_data(Tensor(average.asnumpy().copy()))
        try:
            yield
        finally:
            for param, value in zip(self.params, own, strict=True):
                param.set_data(Tensor(value))

    def _on_device(self, images: Any, sketches: Any, token_ids: Any, persons: Any, present: Any) -> list[Tensor]:
        """Put pictures, token ids and, where they are needed, persons and what is present on the device."""
        others = tuple(sketches) if isinstance(sketches, tuple | list) else (sketches,)
        if len(others) != len(self.pictures):
            raise ConfigError(
                f"data.modalities={list(self.pictures)}: the step needs pictures of each, found {len(others)} arrays"
            )
        batch, pairs = (images, *others, token_ids), len(images)
        if self.positives != "pair":
            if (shape := getattr(persons, "shape", None)) != (pairs,):
                raise ConfigError(
                    f"objective.positives={self.positives}: the step needs the persons of its {pairs} pairs, found "
                    f"shape {shape}; pass persons=, a number for each pair, as RunData.epoch gives them"
                )
            batch = (*batch, persons)
        if present is not None:
            if (shape := np.shape(present)) != (pairs, self.tasks):
                raise ConfigError(
                    f"present= of shape {shape}: expected 0 or 1 for {pairs} pairs and {self.tasks} tasks"
                )
            batch = (*batch, *np.ascontiguousarray(np.asarray(present, np.float32).T))
        return [to_device(one) for one in batch]
