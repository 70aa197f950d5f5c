"""The check, before use, that a form of the operations computes on a device what the plain form does in float32.

The Ascend form and bfloat16 cannot be tried where this project is tested. So on Ascend and GPU a tiny model takes one
step in the chosen form and one in the plain form; if they differ by more than the precision allows, or the chosen form
fails, the plain form is used instead.
"""

import functools
import os
import sys
from dataclasses import replace
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import ParameterTuple, Tensor, nn, ops
from mindspore.nn.cell import _pynative_executor  # its own module has another name since 2.9, and warns

from ms_unireid.adam import Adam
from ms_unireid.config import ModelConfig, ObjectiveConfig, RuntimeConfig, TrainConfig
from ms_unireid.distributed import any_process, joined
from ms_unireid.errors import EnvironmentProblem, one_line
from ms_unireid.losses import Objective
from ms_unireid.models.clip import CLIP
from ms_unireid.models.forms import Operations

_MODEL = ModelConfig(architecture="tiny", image_size=(32, 16), context_length=12)
_PAIRS, _RATE = 4, 1e-3
# float16 gradients of this model vanish without a scale.
_SCALE = 1024.0
# Allowed relative differences of features and of gradients, about ten times those that rounding the products makes on a
# CPU: 9e-4 and 3e-3 in float16, 8e-3 and 2e-2 in bfloat16. A wrong gradient differs by about 1. The third is that of an
# update from Adam's formula, in learning rates.
_ALLOWED = {"fp32": (2e-3, 2e-2, 1e-3), "mixed": (1e-2, 3e-2, 1e-3), "bf16": (8e-2, 2e-1, 1e-3)}


class Measured(NamedTuple):
    """What a step of the tiny model computed: features, each (4, D), gradients by name, and the error of the update.

    That is the largest difference of a weight's update from Adam's formula, in learning rates.
    """

    feats: list[np.ndarray]
    grads: dict[str, np.ndarray]
    update: float


def checked_operations(runtime: RuntimeConfig) -> Operations:
    """Return the operations that a config selects, or plain ones if they fail the check, which runs once a process.

    ConfigError if the device has no kernels for them; EnvironmentProblem if it cannot compute in this precision at all.
    """
    chosen, device = Operations.of(runtime), ms.get_context("device_target")
    if device == "CPU" or (chosen.form, chosen.precision) == ("plain", "fp32"):
        return chosen
    if "MS_SIMULATION_LEVEL" in os.environ:
        return replace(chosen, checked="no, nothing is computed in MindSpore's dry run")
    form, checked = verdict(chosen.form, chosen.precision)
    return replace(chosen, form=form, checked=checked)


@functools.cache
def verdict(form: str, precision: str) -> tuple[str, str]:
    """Check a form in a precision; return the form to use, the same in all processes, and what was found.

    EnvironmentProblem if the plain form fails in float32 or in this precision.
    """
    expected = _plain("fp32")
    good, found = examine(Operations(form, precision), expected)
    if not any_process(not good, joined()):
        return form, f"{form} {precision} agrees with plain fp32: {found}"
    found = f"{form} {precision} failed the check: {'another process found a difference' if good else found}"
    if precision != "fp32" and not _agree(compare(_plain(precision), expected), precision):
        found += "; the precision is at fault: set runtime.precision=fp32"
    if form != "plain":
        found += "; the plain form is used instead"
    if joined().first:
        print(f"warning: {found}", file=sys.stderr)
    return "plain", found


def examine(operations: Operations, expected: Measured) -> tuple[bool, str]:
    """Return whether operations agree with what plain ones measured, and the differences, or the error, in a line."""
    try:
        differences = compare(measure(operations), expected)
    except Exception as error:  # whatever MindSpore raises for an operation that does not work
        return False, one_line(error)
    named = zip(("features", "gradients", "update"), differences, _ALLOWED[operations.precision], strict=True)
    listed = ", ".join(f"{name} {value:.1e} (allowed {bound:.0e})" for name, value, bound in named)
    return _agree(differences, operations.precision), f"differences {listed}"


def _agree(differences: tuple[float, ...], precision: str) -> bool:
    return all(difference <= bound for difference, bound in zip(differences, _ALLOWED[precision], strict=True))


def compare(found: Measured, expected: Measured) -> tuple[float, float, float]:
    """Return the largest relative differences of features and gradients, and the error of the update.

    A gradient of less than a hundredth of the whole is compared with a hundredth of the whole.
    """
    feats = [_norm(a - b) / _norm(b) for a, b in zip(found.feats, expected.feats, strict=True)]
    least = 0.01 * _norm(np.array([_norm(grad) for grad in expected.grads.values()]))
    grads = [_norm(found.grads[name] - grad) / max(_norm(grad), least) for name, grad in expected.grads.items()]
    return float(np.max(feats)), float(np.max(grads)), found.update


def measure(operations: Operations) -> Measured:
    """Take a step of the tiny model, of fixed weights and inputs, in the current mode."""
    rng = np.random.default_rng(7)
    pictures = rng.integers(0, 256, (2 * _PAIRS, 4, *_MODEL.image_size), np.uint8)
    pictures[:, 3] = pictures[:, 3] > 200  # erased
    token_ids = rng.integers(1, 49406, (_PAIRS, _MODEL.context_length), np.int32)
    for ids, end in zip(token_ids, range(5, _MODEL.context_length, 2), strict=False):
        ids[end:] = 0
        ids[end] = 49407
    step = _Step(CLIP(_MODEL, np.random.default_rng(1), operations), operations)
    before = [param.asnumpy().copy() for param in step.params]
    try:
        feats, grads = step(Tensor(pictures), Tensor(token_ids), Tensor(_RATE, ms.float32))
    except Exception:
        # Without a graph, what an error leaves of a gradient would make the process's next gradients wrong.
        _pynative_executor.clear_res()
        raise
    grads = [grad.asnumpy() for grad in grads]
    moved = [start - param.asnumpy() for start, param in zip(before, step.params, strict=True)]
    errors = [
        np.abs(move / _RATE - _adam(grad + decay * start)).max()
        for move, grad, start, decay in zip(moved, grads, before, step.adam.decays, strict=True)
    ]
    names = [param.name for param in step.params]
    return Measured([t.asnumpy() for t in feats], dict(zip(names, grads, strict=True)), float(np.max(errors)))


class _Loss(nn.Cell):
    """The scaled loss of a batch, and its features."""

    def __init__(self, clip: CLIP, scale: float):
        super().__init__()
        self.clip, self.scale = clip, scale
        self.objective = Objective(ObjectiveConfig())

    def construct(self, pictures: Tensor, token_ids: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        image, sketch = self.clip.pick.parts(self.clip.encode_image(pictures), 2)
        text = self.clip.encode_text(token_ids)
        loss, _ = self.objective(image, sketch, text, sketch + text, Tensor(14.0, ms.float32))
        return loss * self.scale, (image, sketch, text)


class _Step(nn.Cell):
    """Features, gradients and Adam's first update in one graph."""

    def __init__(self, clip: CLIP, operations: Operations):
        super().__init__()
        self.params = ParameterTuple(clip.trainable_params())
        self.scale = _SCALE if operations.precision == "mixed" else 1.0
        self.gradient = ms.value_and_grad(_Loss(clip, self.scale), None, self.params, has_aux=True)
        self.adam = Adam(self.params, TrainConfig())

    def construct(self, pictures: Tensor, token_ids: Tensor, rate: Tensor) -> tuple:
        (_, feats), grads = self.gradient(pictures, token_ids)
        grads = ops.Map()(ops.partial(ops.mul, 1 / self.scale), grads)
        return ops.depend(feats, self.adam(grads, rate, rate)), grads


def _adam(grad: np.ndarray) -> np.ndarray:
    """Return Adam's first step in learning rates: both bias-corrected moments are then the gradient's own."""
    return grad / (np.abs(grad) + TrainConfig().eps)


def _plain(precision: str) -> Measured:
    """Measure the plain form, uncompiled: that takes a tenth of the time."""
    before = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        return measure(Operations("plain", precision))
    except Exception as error:  # as in `examine`
        device = ms.get_context("device_target")
        fix = "set runtime.precision=fp32" if precision != "fp32" else "set runtime.device=CPU"
        raise EnvironmentProblem(f"{device} cannot compute in {precision} ({one_line(error)}); {fix}") from error
    finally:
        ms.set_context(mode=before)


def _norm(x: np.ndarray) -> float:
    return float(np.linalg.norm(x.astype(np.float64).reshape(-1)))
