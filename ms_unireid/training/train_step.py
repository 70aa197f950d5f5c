"""`TrainOneStepCell`: forward, loss, gradient, reduction over processes and update of one batch."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from ms_unireid.config import Config, TrainConfig
from ms_unireid.distributed import GatherWithGradient, gradient_reducer
from ms_unireid.errors import ConfigError
from ms_unireid.losses import Objective
from ms_unireid.models.self_check import checked_operations
from ms_unireid.models.unireid import UNIReID
from ms_unireid.models.vision import to_device
from ms_unireid.runtime import ALONE, Processes
from ms_unireid.training.gradient import BatchGradient, CachedGradient, NetworkWithObjective, SplitGradient
from ms_unireid.training.loss_scale import LossScale
from ms_unireid.training.optimizer import ApplyGradients, ReduceGradients

# A batch in memory or on the device: photos and sketches, float32 (B, 3, H, W) or uint8 (B, 3 or 4, H, W) as
# `normalize` takes them, and token ids (B, L) int32.
Batch = tuple[np.ndarray | Tensor, np.ndarray | Tensor, np.ndarray | Tensor]


class StepResult(NamedTuple):
    """What a step computed before it changed the weights.

    Attributes:
        loss: The batch's loss, a scalar.
        parts: Its parts by name, scalars: see `Objective`.
        gradient_norm: Global norm of the gradient before clipping, a scalar.
        skipped: Whether an overflow in half precision kept the weights as they were.
    """

    loss: Tensor
    parts: dict[str, Tensor]
    gradient_norm: Tensor
    skipped: bool


class TrainOneStepCell(nn.TrainOneStepCell):
    """Trains a model step by step; a step is one graph unless precision or memory options need several.

    Args:
        model: The model to train, built by `build_model` with `config.runtime`.
        config: Objective with dynamic task weights and cross-modality interaction, optimizer, precision, memory.
        processes: The processes that train together; each takes its part of every batch.

    Raises:
        ConfigError: If the model was built for another precision or form of the operations.

    Attributes:
        part_names: Names of the loss parts.
        params: The trained parameters.
        optimizer: `Adam` with its moments.
        loss_scale: State of the loss scale.
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
        network = NetworkWithObjective(model, objective, gather)
        params = ParameterTuple(network.trained_parameters())
        apply_gradients = ApplyGradients(params, train)
        super().__init__(network, apply_gradients.optimizer)
        self.part_names, self.params = objective.part_names, params
        self.learning_rate, self.bias_factor = train.learning_rate, train.bias_lr_factor
        self.loss_scale = LossScale(runtime)
        self.gradient, sums = self._make_gradient(train)
        reducer = gradient_reducer(params, processes)
        self.reduce_gradients = ReduceGradients(self.loss_scale.active, reducer, sums, wanted.form == "fast")
        self.apply_gradients = apply_gradients
        # The host checks for an overflow before the update, so half precision needs one graph before and one after.
        self.in_one_graph = sums is None and not self.loss_scale.active

    def _make_gradient(self, train: TrainConfig) -> tuple[Any, ParameterTuple | None]:
        """Return the gradient that the config selects, and the parameters that sum it up, if any."""
        if train.accumulation_steps > 1:
            gradient = SplitGradient(self.network, self.params, train.accumulation_steps)
        elif train.cache_chunk is not None:
            gradient = CachedGradient(self.network, self.params, train.cache_chunk)
        else:
            return BatchGradient(self.network, self.params), None
        return gradient, gradient.sums

    def construct(
        self,
        images: Tensor,
        sketches: Tensor,
        token_ids: Tensor,
        loss_scale: Tensor,
        learning_rate: Tensor,
        bias_rate: Tensor,
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Take a step in one graph; return (loss, *parts) and the gradient's norm."""
        values, grads = self.gradient(images, sketches, token_ids, loss_scale)
        grads, norm = self.reduce_gradients(loss_scale, *grads)
        done = self.apply_gradients(norm, learning_rate, bias_rate, *grads)
        return values, ops.depend(norm, done)

    def __call__(
        self,
        images: np.ndarray | Tensor,
        sketches: np.ndarray | Tensor,
        token_ids: np.ndarray | Tensor,
        learning_rate: float | None = None,
        bias_rate: float | None = None,
    ) -> StepResult:
        """Take one step.

        Args:
            images: Photos, normalised, float32 (B, 3, H, W), or as `TrainingSource` gives them, uint8 (B, 4, H, W).
            sketches: Their sketches, likewise.
            token_ids: Their captions (B, L) int32.
            learning_rate: Rate of this step; None takes `train.learning_rate`.
            bias_rate: Rate of the biases; None takes `train.bias_lr_factor` times the other rate.

        Raises:
            TooManyOverflows: After too many overflows in a row.
        """
        batch = _on_device((images, sketches, token_ids))
        rate = self.learning_rate if learning_rate is None else learning_rate
        rates = [Tensor(r, ms.float32) for r in (rate, self.bias_factor * rate if bias_rate is None else bias_rate)]
        if self.in_one_graph:
            values, norm = super().__call__(*batch, Tensor(self.loss_scale.value, ms.float32), *rates)
            return self._result(values, norm, skipped=False)
        values, grads, norm = self._reduced_gradients(batch)
        finite = not self.loss_scale.active or math.isfinite(float(norm.asnumpy()))
        if finite:
            self.apply_gradients(norm, *rates, *grads)
        if self.loss_scale.active:
            self.loss_scale.update(finite)
        return self._result(values, norm, skipped=not finite)

    def gradients(
        self, images: np.ndarray | Tensor, sketches: np.ndarray | Tensor, token_ids: np.ndarray | Tensor
    ) -> dict[str, np.ndarray]:
        """Return the gradient of a batch's loss by parameter name, float32, and change nothing; arguments as in a step.

        It is the mean over processes, before clipping and weight decay.
        """
        _, grads, _ = self._reduced_gradients(_on_device((images, sketches, token_ids)))
        return {param.name: grad.asnumpy() for param, grad in zip(self.params, grads, strict=True)}

    def _reduced_gradients(self, batch: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
        scale = self.loss_scale.value
        if isinstance(self.gradient, BatchGradient):
            values, grads = self.gradient(*batch, Tensor(scale, ms.float32))
        else:
            values, grads = self.gradient(batch, scale), ()
        return values, *self.reduce_gradients(Tensor(scale, ms.float32), *grads)

    def _result(self, values: tuple[Tensor, ...], norm: Tensor, skipped: bool) -> StepResult:
        loss, *parts = values
        return StepResult(loss, dict(zip(self.part_names, parts, strict=True)), norm, skipped)

    def state(self) -> list[Parameter]:
        """List the state that a resumed run needs besides the model's parameters and the loss scale."""
        adam = self.optimizer
        averages = self.apply_gradients.average.averages if self.apply_gradients.averages else ()
        return [*adam.exp_avg, *adam.exp_avg_sq, adam.beta1_power, adam.beta2_power, *averages]

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Replace the weights by their moving average, if there is one, within a `with` block."""
        if not self.apply_gradients.averages:
            yield
            return
        own = [p.asnumpy().copy() for p in self.params]
        for param, average in zip(self.params, self.apply_gradients.average.averages, strict=True):
            param.set_data(Tensor(average.asnumpy().copy()))
        try:
            yield
        finally:
            for param, value in zip(self.params, own, strict=True):
                param.set_data(Tensor(value))


def _on_device(batch: Batch) -> tuple[Tensor, ...]:
    return tuple(to_device(one) for one in batch)
