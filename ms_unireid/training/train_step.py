"""One training step: gradient by one of three ways, update, and what is told of it."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from ms_unireid.config import Config, TrainConfig
from ms_unireid.distributed import GatherWithGradient, gradient_reducer
from ms_unireid.losses import Objective
from ms_unireid.models.ops import use_fast_ops, use_half_precision
from ms_unireid.models.unireid import UNIReID
from ms_unireid.runtime import ALONE, Processes, uses_fast_ops
from ms_unireid.training.gradient import (
    BatchGradient,
    CachedGradient,
    NetworkWithObjective,
    SplitGradient,
    reached_parameters,
)
from ms_unireid.training.loss_scale import LossScale
from ms_unireid.training.optimizer import Apply, Collect


@dataclass(frozen=True)
class StepResult:
    """What a step computed before it changed the weights.

    Attributes:
        loss: The batch's loss.
        parts: Its parts by name.
        gradient_norm: Global norm of the gradient, before clipping.
        skipped: Whether an overflow in half precision kept the weights as they were.
    """

    loss: float
    parts: dict[str, float]
    gradient_norm: float
    skipped: bool


class _Whole(nn.Cell):
    """Gradient and update in one graph; a cell compiles to a faster one than a jitted function."""

    def __init__(self, gradient: BatchGradient, collect: Collect, apply: Apply):
        super().__init__(auto_prefix=False)
        self.gradient, self.collect, self.apply_gradient = gradient, collect, apply

    def construct(
        self, images: Tensor, sketches: Tensor, token_ids: Tensor, loss_scale: Tensor, learning_rate: Tensor
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        values, grads = self.gradient(images, sketches, token_ids, loss_scale)
        grads, norm = self.collect(loss_scale, *grads)
        done = self.apply_gradient(norm, learning_rate, *grads)
        return values, ops.depend(norm, done)


class TrainStep:
    """Takes steps on a model.

    Args:
        model: What is trained.
        config: Objective, optimizer, precision and memory options.
        processes: Those that train together; each takes its part of every batch.

    Attributes:
        part_names: Names of the loss parts.
        loss_scale: State of the loss scale.
    """

    def __init__(self, model: UNIReID, config: Config, processes: Processes = ALONE):
        runtime, train = config.runtime, config.train
        objective = Objective(config.objective)
        gathers = train.global_batch_objective and processes.size > 1
        gather = GatherWithGradient(processes) if gathers else None
        self.part_names = objective.part_names
        self.network = NetworkWithObjective(model, objective, gather)
        self.params = ParameterTuple(reached_parameters(self.network))
        self.loss_scale = LossScale(runtime)
        if uses_fast_ops(runtime):
            use_fast_ops(model)
        if self.loss_scale.active:
            use_half_precision(model)
        if runtime.recompute:
            model.recompute_blocks()
        self.gradient, sums = self._make_gradient(train)
        reducer = gradient_reducer(self.params, processes)
        self.collect = Collect(self.loss_scale.active, reducer, sums, uses_fast_ops(runtime))
        self.apply = Apply(self.params, train)
        # An overflow must be seen before the update, so half precision needs graphs of its own for both.
        at_once = sums is None and not self.loss_scale.active
        self.whole = _Whole(self.gradient, self.collect, self.apply) if at_once else None

    def _make_gradient(self, train: TrainConfig) -> tuple[Any, ParameterTuple | None]:
        """Return the chosen way to the gradient, and where it leaves it if not in its result."""
        if train.accumulation_steps > 1:
            gradient = SplitGradient(self.network, self.params, train.accumulation_steps)
        elif train.cache_chunk is not None:
            gradient = CachedGradient(self.network, self.params, train.cache_chunk)
        else:
            return BatchGradient(self.network, self.params), None
        return gradient, gradient.sums

    @property
    def optimizer(self) -> nn.Cell:
        """Adam with its moments."""
        return self.apply.optimizer

    def set_train(self) -> None:
        """Switch model and objective to training."""
        self.network.set_train()

    def __call__(
        self, images: np.ndarray, sketches: np.ndarray, token_ids: np.ndarray, learning_rate: float
    ) -> StepResult:
        """Take one step on a batch.

        Args:
            images: Photos (B, 3, H, W) float32.
            sketches: Their sketches (B, 3, H, W) float32.
            token_ids: Their captions (B, L) int32.
            learning_rate: Base rate of the epoch.

        Raises:
            TooManyOverflows: After too many overflows in a row.
        """
        batch = (Tensor(images), Tensor(sketches), Tensor(token_ids))
        rate, scale = Tensor(learning_rate, ms.float32), self.loss_scale.value
        if self.whole is not None:
            values, norm = self.whole(*batch, Tensor(scale, ms.float32), rate)
            return self._result(values, float(norm.asnumpy()), skipped=False)
        if isinstance(self.gradient, BatchGradient):
            values, grads = self.gradient(*batch, Tensor(scale, ms.float32))
        else:
            values, grads = self.gradient(batch, scale), ()
        grads, norm = self.collect(Tensor(scale, ms.float32), *grads)
        size = float(norm.asnumpy())
        skipped = self.loss_scale.active and not math.isfinite(size)
        if not skipped:
            self.apply(norm, rate, *grads)
        if self.loss_scale.active:
            self.loss_scale.update(not skipped)
        return self._result(values, size, skipped)

    def _result(self, values: tuple[Tensor, ...], norm: float, skipped: bool) -> StepResult:
        loss, *parts = (float(value.asnumpy()) for value in values)
        return StepResult(loss, dict(zip(self.part_names, parts, strict=True)), norm, skipped)

    def state(self) -> list[Parameter]:
        """List all that a continued run needs beside the model's parameters and the loss scale."""
        adam = self.optimizer
        averages = self.apply.average.averages if self.apply.averages else ()
        return [*adam.exp_avg, *adam.exp_avg_sq, adam.beta1_power, adam.beta2_power, *averages]

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the moving average in the weights' place meanwhile, if there is one."""
        if not self.apply.averages:
            yield
            return
        own = [p.asnumpy().copy() for p in self.params]
        for param, average in zip(self.params, self.apply.average.averages, strict=True):
            param.set_data(Tensor(average.asnumpy().copy()))
        try:
            yield
        finally:
            for param, value in zip(self.params, own, strict=True):
                param.set_data(Tensor(value))
