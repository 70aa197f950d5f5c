"""Adam as in PyTorch."""

from collections.abc import Callable, Sequence

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from ms_unireid.config import TrainConfig


class Adam(nn.Cell):
    """Adam with L2 decay in the gradient and epsilon outside the bias-corrected root.

    p -= lr * m_hat / (sqrt(v_hat) + eps). MindSpore's own optimizers add epsilon to the root before the bias
    correction, which at the authors' eps of 1e-3 makes the first steps up to thirty times too small; the
    primitive below is exact when epsilon shrinks with the correction. On Ascend it is one kernel of the older interface
    for each parameter; the newer AdamW takes its rate as a number of the host, so each new rate would compile again.

    A parameter whose name contains "bias" takes the biases' rate and decay.
    """

    def __init__(self, params: Sequence[Parameter], config: TrainConfig):
        super().__init__(auto_prefix=False)
        self.params = ParameterTuple(params)
        self.parameters = self.params  # the name that nn.TrainOneStepCell looks for
        self.exp_avg = self.params.clone(prefix="exp_avg", init="zeros")
        self.exp_avg_sq = self.params.clone(prefix="exp_avg_sq", init="zeros")
        self.beta1, self.beta2, self.eps = config.beta1, config.beta2, config.eps
        self.beta1_power = Parameter(Tensor(1.0, ms.float32), name="beta1_power")
        self.beta2_power = Parameter(Tensor(1.0, ms.float32), name="beta2_power")
        biases = ["bias" in p.name for p in params]
        self.biases = tuple(biases)
        self.decays = tuple(config.bias_weight_decay if bias else config.weight_decay for bias in biases)
        self.adam, self.map = ops.Adam(), ops.Map()

    def construct(
        self, grads: tuple[Tensor, ...], learning_rate: Tensor, bias_rate: Tensor, finite: Tensor | None = None
    ) -> bool:
        """Take one step at the rates of weights and biases, float32 scalars; none if `finite`, a bool scalar, is false.

        The gradients must then be finite all the same.
        """
        beta1, beta2 = self.beta1, self.beta2
        beta1_power, beta2_power = self.beta1_power * beta1, self.beta2_power * beta2
        new_powers = (beta1_power, beta2_power)
        eps = self.eps * ops.sqrt(1 - beta2_power)
        if finite is not None:
            # At a rate of 0, and with moments that keep all of their value, nothing changes. A branch in the graph
            # would do the same, but on Ascend the host would wait for its condition.
            beta1, beta2 = choose(finite, beta1, 1.0), choose(finite, beta2, 1.0)
            learning_rate, bias_rate = choose(finite, learning_rate, 0.0), choose(finite, bias_rate, 0.0)
            new_powers = (choose(finite, beta1_power, self.beta1_power), choose(finite, beta2_power, self.beta2_power))
        # The compiler takes several times as long over a loop.
        step = ops.partial(self._step, (beta1_power, beta2_power), (beta1, beta2), eps, (learning_rate, bias_rate))
        steps = self.map(step, self.decays, self.biases, self.params, self.exp_avg, self.exp_avg_sq, grads)
        done = ops.depend(True, steps)
        done = ops.depend(done, ops.assign(self.beta1_power, new_powers[0]))
        return ops.depend(done, ops.assign(self.beta2_power, new_powers[1]))

    def _step(
        self, powers: tuple, betas: tuple, eps: Tensor, rates: tuple, decay: float, bias: bool, *tensors: Tensor
    ) -> Tensor:
        """Update one parameter and its moments; `tensors` are these and its gradient."""
        param, exp_avg, exp_avg_sq, grad = tensors
        if decay > 0:
            grad = grad + decay * param
        rate = rates[1] if bias else rates[0]
        return self.adam(param, exp_avg, exp_avg_sq, powers[0], powers[1], rate, betas[0], betas[1], eps, grad)


def adding() -> Callable[[Parameter, Tensor], Tensor]:
    """Return what adds a tensor to a parameter on the current device; Ascend's AssignAdd has the older interface."""
    return _assign_sum if ms.get_context("device_target") == "Ascend" else ops.assign_add


def _assign_sum(param: Parameter, value: Tensor) -> Tensor:
    return ops.assign(param, param + value)


def choose(finite: Tensor, value: Tensor | float, other: Tensor | float) -> Tensor:
    """Choose between two float32 scalars on the device."""
    return ops.where(finite, value + Tensor(0.0, ms.float32), other + Tensor(0.0, ms.float32))
