"""From gradients to new weights: mean over processes, norm, clipping, Adam, moving average.

Gradients come as single arguments: MindSpore compiles anew for each tuple that it is given.
"""

from mindspore import ParameterTuple, Tensor, nn, ops

from ms_unireid.config import TrainConfig
from ms_unireid.training.optimizer import Adam

# Keeps a vanishing gradient from a division by zero, as PyTorch's clipping does.
_EPS = 1e-6


class Collect(nn.Cell):
    """Make one gradient of a step's: mean over processes, loss scale taken out, norm computed.

    Args:
        scaled: Whether there is a loss scale to take out.
        reducer: Averages gradients over processes; None with a single one.
        sums: Where the gradients were added up; None if they are given to `construct`.
        fast: Square by matrix products, which on a CPU takes a third of the time.
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
    """An exponential moving average of the weights, which starts as their first values.

    Not MindCV's: it lives in MindCV's own training step, and its decay changes as training goes on.
    """

    def __init__(self, params: ParameterTuple, decay: float):
        super().__init__(auto_prefix=False)
        self.params, self.decay = params, decay
        self.averages = params.clone(prefix="average")

    def construct(self, done: bool) -> bool:
        """Move towards the weights after `done`."""
        for i in range(len(self.params)):
            difference = ops.depend(self.params[i], done) - self.averages[i]
            done = ops.depend(done, ops.assign_add(self.averages[i], (1 - self.decay) * difference))
        return done


class Apply(nn.Cell):
    """Clip, take Adam's step, move the average."""

    def __init__(self, params: ParameterTuple, config: TrainConfig):
        super().__init__(auto_prefix=False)
        self.clip_norm = config.clip_norm
        self.optimizer = Adam(params, config)
        self.average = None if config.ema_decay is None else MovingAverage(params, config.ema_decay)
        self.averages = self.average is not None

    def construct(self, norm: Tensor, learning_rate: Tensor, *grads: Tensor) -> bool:
        """Update the weights by gradients of a known global norm at a base rate, both float32 scalars."""
        if self.clip_norm is not None:
            factor = ops.minimum(self.clip_norm / (norm + _EPS), Tensor(1.0))
            grads = tuple([grad * factor for grad in grads])
        done = self.optimizer(grads, learning_rate)
        return self.average(done) if self.averages else done
