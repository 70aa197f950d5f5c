"""The scale that keeps float16 gradients from vanishing, and the handling of overflows, both within the step's graph.

MindSpore's own scaler is marked experimental and counts no overflows.
"""

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

from ms_unireid.config import RuntimeConfig

FACTOR = 2.0


class TooManyOverflows(Exception):
    """Too many steps in a row overflowed in half precision."""


class LossScale(nn.Cell):
    """A static or dynamic loss scale, `value`; without float16 products it stays 1.

    It counts `steps` in a row since it changed, skipped steps in all (`overflows`) and those `in_a_row`. All four are
    float32 parameters on the device, which a step's graph updates: nothing is read for it.
    """

    def __init__(self, config: RuntimeConfig):
        super().__init__(auto_prefix=False)
        self.active = config.precision == "mixed"
        self.dynamic = config.loss_scale == "dynamic"
        self.window, self.limit = config.loss_scale_window, config.max_overflows
        self.value = _number("value", config.initial_loss_scale if self.active else 1.0)
        self.steps, self.overflows, self.in_a_row = (_number(name, 0.0) for name in ("steps", "overflows", "in_a_row"))
        self.reported = ("loss_scale", "overflows", "in_a_row") if self.active else ()

    def construct(self, finite: Tensor) -> tuple[Tensor, ...]:
        """Note whether a step's gradient was finite, a bool scalar; return the values of `reported` after it."""
        kept = finite.astype(ms.float32)
        steps, in_a_row = (self.steps + 1.0) * kept, (self.in_a_row + 1.0) * (1.0 - kept)
        overflows, value = self.overflows + (1.0 - kept), self.value
        if self.dynamic:
            grows = (steps >= self.window).astype(ms.float32)
            value = ops.where(finite, value + value * grows * (FACTOR - 1.0), ops.maximum(value * (1 / FACTOR), 1.0))
            steps = steps * (1.0 - grows)
        done = ops.depend(ops.assign(self.value, value), ops.assign(self.steps, steps))
        done = ops.depend(done, ops.assign(self.overflows, overflows))
        done = ops.depend(done, ops.assign(self.in_a_row, in_a_row))
        return ops.depend(value, done), overflows, in_a_row

    def check(self, in_a_row: float, value: float) -> None:
        """Raise TooManyOverflows if the last `max_overflows` steps overflowed, the last one leaving this scale."""
        if in_a_row >= self.limit:
            raise TooManyOverflows(
                f"the gradient overflowed in {in_a_row:g} steps in a row, the last with a loss scale of {value:g}; "
                "lower train.learning_rate, or set runtime.precision=fp32"
            )

    def state(self) -> dict[str, float]:
        """Return what a resumed run needs, for a checkpoint's `meta`."""
        counts = {name: int(getattr(self, name).asnumpy()) for name in ("steps", "overflows", "in_a_row")}
        return {"value": float(self.value.asnumpy()), **counts}

    def restore(self, state: dict[str, float]) -> None:
        """Restore what `state` returned."""
        for name in self.state().keys() & state.keys():
            getattr(self, name).set_data(Tensor(state[name], ms.float32))


def _number(name: str, value: float) -> Parameter:
    return Parameter(Tensor(value, ms.float32), name=f"loss_scale.{name}", requires_grad=False)
