"""Adam as in PyTorch."""

from collections.abc import Sequence

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from ms_unireid.config import TrainConfig


class Adam(nn.Cell):
    """Adam with L2 decay in the gradient and epsilon outside the bias-corrected root.

    p -= lr * m_hat / (sqrt(v_hat) + eps). MindSpore's own optimizers add epsilon to the root before the bias
    correction, which at the authors' eps of 1e-3 makes the first steps up to thirty times too small; the
    primitive below is exact when epsilon shrinks with the correction. On Ascend it is one kernel of the older interface
    for each parameter; the newer AdamW takes its rate as a number of the host, so each new rate would compile again.

    Args:
        params: Trained parameters, in the order of the gradients.
        config: Decay, betas and epsilon. A name that contains "bias" takes the biases' rate and decay.
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
        self.adam = ops.Adam()

    def construct(self, grads: tuple[Tensor, ...], learning_rate: Tensor, bias_rate: Tensor) -> bool:
        """Take one step at the rates of weights and biases, float32 scalars."""
        beta1_power, beta2_power = self.beta1_power * self.beta1, self.beta2_power * self.beta2
        eps = self.eps * ops.sqrt(1 - beta2_power)
        done = True
        for i in range(len(self.params)):
            param, grad = self.params[i], grads[i]
            if self.decays[i] > 0:
                grad = grad + self.decays[i] * param
            step = self.adam(
                param,
                self.exp_avg[i],
                self.exp_avg_sq[i],
                beta1_power,
                beta2_power,
                bias_rate if self.biases[i] else learning_rate,
                self.beta1,
                self.beta2,
                eps,
                grad,
            )
            done = ops.depend(done, step)
        done = ops.depend(done, ops.assign(self.beta1_power, beta1_power))
        return ops.depend(done, ops.assign(self.beta2_power, beta2_power))
