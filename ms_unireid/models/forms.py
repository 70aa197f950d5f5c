"""The fast forms of the towers' operations, with hand-written gradients, and the choice of a form.

MindSpore derives gradients operation by operation. On a CPU those of bias, LayerNorm and softmax run on one core, and
every intermediate result is kept for them; each transpose and each broadcast also keeps a list of 8 or 16 bytes for
every element while the graph lives. A fast form sums and broadcasts over rows by matrix products, separates heads by
split and concatenation, and computes cheap values again instead of keeping them.
"""

import functools
import math
from dataclasses import dataclass, field
from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.ops.auto_generate import SigmoidGrad

from ms_unireid.config import RuntimeConfig
from ms_unireid.models import ascend
from ms_unireid.models.bfloat16 import RoundedMatMul
from ms_unireid.models.ops import (
    LAYER_NORM_EPS,
    ROUNDED,
    SLOPE,
    Affine,
    AttentionCore,
    GELUAffine,
    MatMul,
    Normalize,
    QuickGELUAffine,
)
from ms_unireid.runtime import AMX, bfloat16_products, check_operations, keep_pipeline

# oneDNN multiplies fastest by a matrix that is given transposed. From about this many rows on, transposing it pays.
_MANY_ROWS = 1024


def _row_sums(x: Tensor) -> Tensor:
    """Sum x (rows, D) over rows, (D,)."""
    return ops.MatMul()(ops.ones((1, x.shape[0]), ms.float32), x).reshape(-1)


def _spread(column: Tensor, width: int) -> Tensor:
    """Repeat a column (rows, 1) as (rows, width)."""
    return ops.MatMul()(column, ops.ones((1, width), ms.float32))


class FastAffine(Affine):
    """`Affine` whose bias sums its gradient by a matrix product."""

    def __init__(self, precision: str = "fp32"):
        super().__init__(precision)
        if precision == ROUNDED:
            self.many_rows = math.inf  # it packs its matrices itself
            self.product = self.by_transpose = RoundedMatMul(transpose_b=True)
            self.plainly, self.to_weight = RoundedMatMul(), RoundedMatMul(transpose_a=True)
        else:
            self.many_rows = _MANY_ROWS
            self.plainly, self.by_transpose = MatMul(precision=precision), MatMul(transpose_b=True, precision=precision)
            self.to_weight = MatMul(transpose_a=True, precision=precision)

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of x, weight and bias."""
        return self.to_input(dout, weight), self.to_weight(dout, x), _row_sums(dout)

    def to_input(self, dout: Tensor, weight: Tensor) -> Tensor:
        """Multiply dout (rows, out) by weight (out, in)."""
        if dout.shape[0] < self.many_rows:
            return self.plainly(dout, weight)
        return self.by_transpose(dout, weight.transpose(1, 0))


class FastQuickGELUAffine(QuickGELUAffine):
    """`QuickGELUAffine` that keeps x alone and activates it again in the backward pass."""

    affine_form = FastAffine

    def __init__(self, precision: str = "fp32"):
        super().__init__(precision)
        self.gate_gradient = SigmoidGrad()

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of x, weight and bias."""
        x = ops.depend(x, dout)  # otherwise x would be activated in the forward pass, and the result kept
        steep = SLOPE * x
        gate = ops.sigmoid(steep)
        slope = gate + self.gate_gradient(gate, steep)
        return self.affine.to_input(dout, weight) * slope, self._to_weight(x * gate, dout), _row_sums(dout)

    def _to_weight(self, active: Tensor, dout: Tensor) -> Tensor:
        if dout.shape[0] < self.affine.many_rows:
            return self.affine.to_weight(dout, active)
        return self.affine.to_weight(active, dout).transpose(1, 0)  # the direct product takes twice as long


class FastGELUAffine(GELUAffine):
    """`GELUAffine` with `FastAffine`."""

    affine_form = FastAffine


class FastNormalize(Normalize):
    """`Normalize` that computes and broadcasts its means by matrix products, forward and backward."""

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `Normalize` returns, with inverse standard deviations (rows, 1) in place of the variances."""
        width = x.shape[1]
        average = ops.ones((width, 1), ms.float32) / width
        mean = ops.MatMul()(x, average)
        centred = x - _spread(mean, width)
        inverse = ops.rsqrt(ops.MatMul()(centred * centred, average) + LAYER_NORM_EPS)
        return ops.BiasAdd()(centred * ops.MatMul()(inverse, weight.reshape(1, -1)), bias), mean, inverse

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, out: tuple, dout: tuple) -> tuple[Tensor, ...]:
        """Return the gradients of x, weight and bias."""
        dy, width, product = dout[0], x.shape[1], ops.MatMul()
        # Otherwise the compiler would take the broadcast values from the forward pass, which would have to keep them.
        mean, inverse = ops.depend(out[1], dy), ops.depend(out[2], dy)
        centred = x - _spread(mean, width)
        scaled = dy * centred
        average = weight.reshape(-1, 1) / width  # x @ average is the mean over each row of x * weight
        constant = inverse * product(dy, average)
        slope = inverse * inverse * inverse * product(scaled, average)
        dx = dy * product(inverse, weight.reshape(1, -1)) - centred * _spread(slope, width) - _spread(constant, width)
        return dx, product(inverse.reshape(1, -1), scaled).reshape(-1), _row_sums(dy)


class FastAttentionCore(AttentionCore):
    """`AttentionCore` that keeps queries, keys and values by head, the attention weights and its result.

    Heads lead: a tensor by head is (heads * B, L, D / heads).
    """

    def __init__(self, heads: int, mask: Tensor | None = None, precision: str = "fp32"):
        super().__init__(heads, mask, precision)
        self.transposed_mix = MatMul(batched=True, transpose_a=True, precision=precision)

    def construct(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """Return mixed values, attention weights (heads * B, L, L), and queries, keys and values by head."""
        q, k, v = self._by_head(qkv)
        weights = self._weights(q, k)
        mixed = ops.Concat(-1)(self._heads_of(self.mix(weights, v))).reshape(qkv.shape[0], qkv.shape[1], -1)
        return mixed, weights, q, k, v

    def bprop(self, qkv: Tensor, out: tuple, dout: tuple) -> Tensor:
        """Return the gradient of qkv."""
        (mixed, weights, q, k, v), dmixed = out, dout[0]
        dmixed_by_head = self._leading(ops.Split(-1, self.heads)(self._rows(dmixed)), q.shape)
        sums = _spread(self._sums_by_head(dmixed * mixed), q.shape[1]).reshape(weights.shape)
        dscores = weights * (self.scores(dmixed_by_head, v) - sums)
        dq = self.mix(dscores, k) * q.shape[2] ** -0.5
        dk = self.transposed_mix(dscores, q)
        dv = self.transposed_mix(weights, dmixed_by_head)
        pieces = (*self._heads_of(dq), *self._heads_of(dk), *self._heads_of(dv))
        return (ops.Concat(-1)(pieces).reshape(*dmixed.shape[:2], -1),)

    def _by_head(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, length, width = qkv.shape
        heads, share = self.heads, width // 3 // self.heads
        pieces = ops.Split(-1, 3 * heads)(self._rows(qkv))
        shape = (heads * batch, length, share)
        q = self._leading(pieces[:heads], shape) * share**-0.5
        return q, self._leading(pieces[heads : 2 * heads], shape), self._leading(pieces[2 * heads :], shape)

    def _rows(self, x: Tensor) -> Tensor:
        return x.reshape(-1, x.shape[-1])

    def _leading(self, pieces: tuple[Tensor, ...], shape: tuple[int, ...]) -> Tensor:
        return ops.Concat(0)(pieces).reshape(shape)

    def _heads_of(self, x: Tensor) -> tuple[Tensor, ...]:
        """Split (heads * B, L, D / heads) into each head's rows (B * L, D / heads)."""
        return ops.Split(0, self.heads)(self._rows(x))

    def _sums_by_head(self, x: Tensor) -> Tensor:
        """Sum x (B, L, D) over each head's share of D, (heads * B * L, 1)."""
        share = x.shape[2] // self.heads
        sums = ops.MatMul()(x.reshape(-1, share), ops.ones((share, 1), ms.float32))
        return sums.reshape(-1, self.heads).transpose(1, 0).reshape(-1, 1)


_FORMS: dict[str, dict[type[nn.Cell], type[nn.Cell]]] = {
    "plain": {},
    "fast": {
        Affine: FastAffine,
        QuickGELUAffine: FastQuickGELUAffine,
        GELUAffine: FastGELUAffine,
        Normalize: FastNormalize,
        AttentionCore: FastAttentionCore,
    },
    "ascend": ascend.KINDS,
}
# `fused_ops: auto` by device.
_AUTO = {"CPU": "fast", "Ascend": "ascend"}


@dataclass(frozen=True)
class Operations:
    """How a model's operations are built; weights, normalisations, softmax, residual sums and features are float32."""

    form: str = "plain"  # or `fast` or `ascend`
    precision: str = "fp32"  # of the matrix products, one of `ops.PRODUCTS`
    recompute: bool = False  # compute the blocks' activations again in the backward pass instead of keeping them
    checked: str | None = field(default=None, compare=False)  # what `self_check` found; None if it was not asked

    @classmethod
    def of(cls, runtime: RuntimeConfig) -> "Operations":
        """Return the operations that a config selects; ConfigError if the current device has no kernels for them."""
        device, form = ms.get_context("device_target"), runtime.fused_ops
        keep_pipeline(device)
        check_operations(runtime, device)
        if form == "auto":
            form = _AUTO.get(device, "plain")
        precision = runtime.precision
        if device == "CPU" and precision == "bf16":
            # With AMX oneDNN rounds the matrices of float32 products by itself, see `runtime.prepare`.
            precision = "fp32" if AMX in bfloat16_products() else ROUNDED
        return cls(form, precision, runtime.recompute)

    def make(self, kind: type[nn.Cell], *arguments: Any) -> nn.Cell:
        """Return an operation in the chosen form; `kind` is its plain form. One without arguments is shared."""
        chosen = _FORMS[self.form].get(kind, kind)
        if arguments:
            return chosen(*arguments, precision=self.precision)
        return _shared(chosen, self.precision, self.recompute)

    def matmul(self) -> MatMul:
        """Build the product of two matrices."""
        return _shared(MatMul, self.precision, self.recompute)


@functools.cache
def _shared(kind: type[nn.Cell], precision: str, recompute: bool) -> nn.Cell:
    """Build one cell for all places: MindSpore reads the code of every cell anew, a quarter of a step's compilation."""
    return kind(precision=precision)
