"""Learning rates with the authors' factors for biases and their schedule, and what turns gradients into an update."""

from mindcv.scheduler.dynamic_lr import cosine_decay_lr, linear_lr
from mindspore import ParameterTuple, Tensor, nn, ops

from ms_unireid.adam import Adam
from ms_unireid.config import Config, TrainConfig

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
    """Average gradients over processes, divide them by the loss scale, compute their norm.

    Gradients are separate arguments, because MindSpore compiles again for each new tuple.

    Args:
        scaled: Whether there is a loss scale.
        reducer: Averages gradients over processes; None with a single one.
        sums: The parameters that hold the gradients; None if they are given to `construct`.
        fast: Square by matrix products, which takes a third of the time on a CPU.
    """

    def __init__(
        self, scaled: bool, reducer: nn.Cell | None = None, sums: ParameterTuple | None = None, fast: bool = False
    ):
        super().__init__(auto_prefix=False)
        # A compiled cell takes no parameters as its inputs.
        self.sums, self.reads_sums = sums, sums is not None
        self.scaled, self.reducer, self.reduces = scaled, reducer, reducer is not None
        self.fast, self.product = fast, ops.MatMul(transpose_b=True)

    def construct(self, loss_scale: Tensor, *grads: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the gradients and their global norm, a scalar that is finite only if all of them are."""
        if self.reads_sums:
            grads = self.sums
        if self.reduces:
            grads = self.reducer(grads)
        if self.scaled:
            grads = tuple([grad / loss_scale for grad in grads])
        total = self._square(grads[0])
        for i in range(1, len(grads)):
            total = total + self._square(grads[i])
        return grads, ops.sqrt(total)

    def _square(self, grad: Tensor) -> Tensor:
        """Return the sum of a gradient's squares, a scalar."""
        if not self.fast:
            return (grad * grad).sum()
        row = grad.reshape(1, -1)
        return self.product(row, row).reshape(())


class MovingAverage(nn.Cell):
    """An exponential moving average of the weights; it starts at the initial weights.

    MindCV's average is part of its own training step, and its decay changes during training.
    """

    def __init__(self, params: ParameterTuple, decay: float):
        super().__init__(auto_prefix=False)
        self.params, self.decay = params, decay
        self.averages = params.clone(prefix="average")

    def construct(self, done: bool) -> bool:
        """Move the average towards the weights; `done` makes the graph update the weights first."""
        for i in range(len(self.params)):
            difference = ops.depend(self.params[i], done) - self.averages[i]
            done = ops.depend(done, ops.assign_add(self.averages[i], (1 - self.decay) * difference))
        return done


class ApplyGradients(nn.Cell):
    """Clip, take Adam's step, move the average."""

    def __init__(self, params: ParameterTuple, config: TrainConfig):
        super().__init__(auto_prefix=False)
        self.clip_norm = config.clip_norm
        self.optimizer = Adam(params, config)
        self.average = None if config.ema_decay is None else MovingAverage(params, config.ema_decay)
        self.averages = self.average is not None

    def construct(self, norm: Tensor, learning_rate: Tensor, bias_rate: Tensor, *grads: Tensor) -> bool:
        """Update the weights by gradients of a known global norm at two rates, all float32 scalars."""
        if self.clip_norm is not None:
            factor = ops.minimum(self.clip_norm / (norm + _EPS), Tensor(1.0))
            grads = tuple([grad * factor for grad in grads])
        done = self.optimizer(grads, learning_rate, bias_rate)
        return self.average(done) if self.averages else done
