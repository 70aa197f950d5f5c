"""Learning rates with the authors' factors for biases and their schedule, and what turns gradients into an update."""

from mindcv.scheduler.dynamic_lr import cosine_decay_lr, linear_lr
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from ms_unireid.adam import Adam, adding, choose
from ms_unireid.config import Config, TrainConfig
from ms_unireid.training.loss_scale import LossScale

# The paper's batch, for which its learning rate was chosen.
PAPER_BATCH = 64


def learning_rates(config: Config, group_factor: float = 1.0, steps: int = 1) -> list[float]:
    """Return the rates of a group of parameters whose base rate is `group_factor` times the base rate.

    It rises in equal steps to the group's base rate, then follows a cosine to `train.final_learning_rate`, which is the
    same for all groups. There is one value per epoch, as the authors do, or with `train.warmup_steps` one for each of
    an epoch's `steps`. `train.scale_learning_rate` multiplies all of them for a batch of another size.
    """
    train, ratio = config.train, config.data.batch_size / PAPER_BATCH
    factor = {"none": 1.0, "linear": ratio, "sqrt": ratio**0.5}[train.scale_learning_rate]
    rising, total = train.warmup_epochs, train.epochs
    if train.warmup_steps is not None:
        rising, total = train.warmup_steps, train.epochs * steps
    base, warmup = train.learning_rate * group_factor, min(rising, total)
    rates = linear_lr(train.warmup_factor, 1.0, rising, lr=base, steps_per_epoch=1, epochs=warmup)
    decay = total - warmup
    rates += cosine_decay_lr(decay, train.final_learning_rate, eta_max=base, steps_per_epoch=1, epochs=decay)
    return [factor * rate for rate in rates]


# Keeps a vanishing gradient from a division by zero, as PyTorch's clipping does.
_EPS = 1e-6


class ReduceGradients(nn.Cell):
    """Average loss, parts and gradients over processes, divide gradients by the loss scale, compute their norm.

    Tensors are separate arguments, because MindSpore compiles again for each new tuple: `count` values (loss, *parts),
    and the gradients unless `sums` holds them. `mean` averages over processes. `fast` squares by matrix products, which
    takes a third of the time on a CPU. `Map` compiles in a third of a loop's time, here and below.
    """

    def __init__(self, count: int, scale: LossScale, mean: nn.Cell | None, sums: ParameterTuple | None, fast: bool):
        super().__init__(auto_prefix=False)
        # A compiled cell takes no parameters as its inputs.
        self.sums, self.reads_sums = sums, sums is not None
        self.count, self.scale, self.scaled = count, scale, scale.active
        self.mean, self.averages = mean, mean is not None
        self.fast, self.product, self.map = fast, ops.MatMul(transpose_b=True), ops.Map()

    def construct(self, *tensors: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
        """Take values and gradients; return both, and the gradients' global norm: finite only if all of them are."""
        values, grads = tensors[: self.count], self.sums if self.reads_sums else tensors[self.count :]
        if self.averages:
            tensors = self.mean(*values, *grads)
            values, grads = tensors[: self.count], tensors[self.count :]
        if self.scaled:
            grads = self.map(ops.partial(ops.mul, 1 / self.scale.value), grads)
        return values, grads, ops.sqrt(ops.concat(self.map(self._square, grads)).sum())

    def _square(self, grad: Tensor) -> Tensor:
        """Return the sum of a gradient's squares, (1,)."""
        if not self.fast:
            return (grad * grad).sum().reshape(1)
        row = grad.reshape(1, -1)
        return self.product(row, row).reshape(1)


class MovingAverage(nn.Cell):
    """An exponential moving average of the weights; it starts at the initial weights.

    MindCV's average is part of its own training step, and its decay changes during training.
    """

    def __init__(self, params: ParameterTuple, decay: float):
        super().__init__(auto_prefix=False)
        self.params, self.decay = params, decay
        self.averages, self.add_to, self.map = params.clone(prefix="average"), adding(), ops.Map()

    def construct(self, done: bool, finite: Tensor | None = None) -> bool:
        """Move the average towards the weights, unless `finite` is false; `done` makes the graph update them first."""
        share = 1 - self.decay if finite is None else choose(finite, 1 - self.decay, 0.0)
        return ops.depend(done, self.map(ops.partial(self._move, done, share), self.params, self.averages))

    def _move(self, done: bool, share: Tensor | float, param: Parameter, average: Parameter) -> Parameter:
        return self.add_to(average, share * (ops.depend(param, done) - average))


class Update(nn.Cell):
    """What follows a batch's gradient, in the graph that computes it or in one of its own.

    It reduces the gradients, clips them, takes Adam's step and moves the average. The graph itself decides about an
    overflow in float16: it leaves all as it was but the loss scale.
    """

    def __init__(self, reduce_gradients: ReduceGradients, optimizer: Adam, config: TrainConfig):
        super().__init__(auto_prefix=False)
        self.reduce_gradients, self.optimizer, self.clip_norm = reduce_gradients, optimizer, config.clip_norm
        self.scale, self.scaled = reduce_gradients.scale, reduce_gradients.scaled
        self.average = None if config.ema_decay is None else MovingAverage(optimizer.params, config.ema_decay)
        self.averages, self.map = self.average is not None, ops.Map()

    def construct(self, learning_rate: Tensor, bias_rate: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Update the weights by what `ReduceGradients` takes, at two rates.

        Returns the loss, and loss, parts, gradient norm and the loss scale's `reported` as one tensor (n,).
        """
        values, grads, norm = self.reduce_gradients(*tensors)
        finite, size = None, norm
        if self.scaled:
            finite = ops.isfinite(norm)
            size = choose(finite, norm, 1.0)
            grads = self.map(ops.partial(_only_if, finite), grads)
        if self.clip_norm is not None:
            factor = ops.minimum(self.clip_norm / (size + _EPS), Tensor(1.0))
            grads = self.map(ops.partial(ops.mul, factor), grads)
        done = self.optimizer(grads, learning_rate, bias_rate, finite)
        if self.averages:
            done = self.average(done, finite)
        scale = self.scale(finite) if self.scaled else ()
        reported = [value.reshape(1) for value in (*values, ops.depend(norm, done), *scale)]
        return values[0], ops.concat(reported)


def _only_if(finite: Tensor, grad: Tensor) -> Tensor:
    return ops.where(finite, grad, ops.zeros_like(grad))
