"""The scale that keeps float16 gradients from vanishing, and the handling of overflows.

MindSpore's own scaler is marked experimental and counts no overflows.
"""

from ms_unireid.config import RuntimeConfig

FACTOR = 2.0


class TooManyOverflows(Exception):
    """Too many steps in a row overflowed in half precision."""


class LossScale:
    """A static or dynamic loss scale, `value`; in float32 it stays 1.

    It counts `steps` in a row since it changed, skipped steps in all (`overflows`) and those `in_a_row`.
    """

    def __init__(self, config: RuntimeConfig):
        self.active = config.precision == "mixed"
        self.dynamic = config.loss_scale == "dynamic"
        self.window, self.limit = config.loss_scale_window, config.max_overflows
        self.value = config.initial_loss_scale if self.active else 1.0
        self.steps = self.overflows = self.in_a_row = 0

    def update(self, finite: bool) -> None:
        """Note whether a step's gradient was finite, and change the scale accordingly.

        Raises:
            TooManyOverflows: After `max_overflows` overflows in a row.
        """
        if finite:
            self.in_a_row = 0
            self.steps += 1
            if self.dynamic and self.steps >= self.window:
                self.value, self.steps = self.value * FACTOR, 0
            return
        self.overflows += 1
        self.in_a_row += 1
        self.steps = 0
        if self.dynamic:
            self.value = max(1.0, self.value / FACTOR)
        if self.in_a_row >= self.limit:
            raise TooManyOverflows(
                f"the gradient overflowed in {self.in_a_row} steps in a row, the last with a loss scale of "
                f"{self.value:g}; lower train.learning_rate, or set runtime.precision=fp32"
            )

    def report(self) -> dict[str, float]:
        """Return what is logged with each step; nothing in float32."""
        return {"loss_scale": self.value, "overflows": self.overflows} if self.active else {}

    def state(self) -> dict[str, float]:
        """Return what a resumed run needs, for a checkpoint's `meta`."""
        return {name: getattr(self, name) for name in ("value", "steps", "overflows", "in_a_row")}

    def restore(self, state: dict[str, float]) -> None:
        """Restore what `state` returned."""
        for name, value in self.state().items():
            setattr(self, name, state.get(name, value))
