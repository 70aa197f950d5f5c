"""The towers' building operations, and for each a fast form with a gradient of its own.

MindSpore derives gradients operation by operation: on a CPU those of bias, LayerNorm and softmax run on one core, and
every intermediate is kept for them. Worse, each of its transposes and of its operations that broadcast keeps a list of
8 or 16 bytes for every element as long as the graph lives. A fast form sums and spreads over rows by matrix products,
takes heads apart by split and concatenation, and computes cheap things again rather than keep them.
"""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops.auto_generate import SigmoidGrad


class Product(nn.Cell):
    """A matrix product of float32 tensors, computed in float16 if `half` is set; the result is float32 either way.

    Args:
        batched: Multiply stacks of matrices (..., L, K) instead of two matrices.
        transpose_a: Multiply the first operand's transpose.
        transpose_b: Multiply by the second operand's transpose.
    """

    def __init__(self, batched: bool = False, transpose_a: bool = False, transpose_b: bool = False):
        super().__init__()
        self.half = False
        multiply = ops.BatchMatMul if batched else ops.MatMul
        self.multiply = multiply(transpose_a=transpose_a, transpose_b=transpose_b)

    def construct(self, a: Tensor, b: Tensor) -> Tensor:
        """Multiply a (..., M, K) by b (..., K, N), or either given transposed."""
        if self.half:
            return self.multiply(a.astype(ms.float16), b.astype(ms.float16)).astype(ms.float32)
        return self.multiply(a, b)


def use_half_precision(model: nn.Cell) -> None:
    """Compute all of a model's matrix products in float16; call it before anything is compiled.

    Weights, normalisations, softmax, residual sums and features stay float32.
    """
    for _, cell in model.cells_and_names():
        if isinstance(cell, Product):
            cell.half = True


LAYER_NORM_EPS = 1e-5
_SLOPE = 1.702  # of QuickGELU's sigmoid
# oneDNN multiplies fastest by a matrix that is given transposed. To transpose one pays from about so many rows on.
_MANY_ROWS = 1024


def _row_sums(x: Tensor) -> Tensor:
    """Sum x (rows, D) over rows, (D,)."""
    return ops.MatMul()(ops.ones((1, x.shape[0]), ms.float32), x).reshape(-1)


def _spread(column: Tensor, width: int) -> Tensor:
    """Repeat a column (rows, 1) as (rows, width)."""
    return ops.MatMul()(column, ops.ones((1, width), ms.float32))


class Affine(nn.Cell):
    """x W^T + b for x (rows, in), weight (out, in) and bias (out,)."""

    def __init__(self):
        super().__init__()
        self.product = Product(transpose_b=True)
        self.add_bias = ops.BiasAdd()

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return (rows, out)."""
        return self.add_bias(self.product(x, weight), bias)


class FastAffine(Affine):
    """`Affine` whose bias sums its gradient by a matrix product."""

    def __init__(self):
        super().__init__()
        self.plainly, self.by_transpose = Product(), Product(transpose_b=True)
        self.to_weight = Product(transpose_a=True)

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of x, weight and bias."""
        return self.to_input(dout, weight), self.to_weight(dout, x), _row_sums(dout)

    def to_input(self, dout: Tensor, weight: Tensor) -> Tensor:
        """Multiply dout (rows, out) by weight (out, in)."""
        if dout.shape[0] < _MANY_ROWS:
            return self.plainly(dout, weight)
        return self.by_transpose(dout, weight.transpose(1, 0))


class QuickGELUAffine(nn.Cell):
    """QuickGELU, x * sigmoid(1.702 x), then `Affine`; both at once, for the sake of the fast form."""

    def __init__(self):
        super().__init__()
        self.affine = Affine()

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Map x (rows, in) to (rows, out)."""
        return self.affine(x * ops.sigmoid(_SLOPE * x), weight, bias)


class FastQuickGELUAffine(QuickGELUAffine):
    """`QuickGELUAffine` that keeps x alone and activates it again in the backward pass."""

    def __init__(self):
        super().__init__()
        self.affine = FastAffine()
        self.gate_gradient = SigmoidGrad()

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of x, weight and bias."""
        x = ops.depend(x, dout)  # or it would be activated early, and kept
        steep = _SLOPE * x
        gate = ops.sigmoid(steep)
        slope = gate + self.gate_gradient(gate, steep)
        return self.affine.to_input(dout, weight) * slope, self._to_weight(x * gate, dout), _row_sums(dout)

    def _to_weight(self, active: Tensor, dout: Tensor) -> Tensor:
        if dout.shape[0] < _MANY_ROWS:
            return self.affine.to_weight(dout, active)
        return self.affine.to_weight(active, dout).transpose(1, 0)  # as the product of rows so wide takes twice as long


class GELUAffine(nn.Cell):
    """The exact GELU, then `Affine`."""

    def __init__(self):
        super().__init__()
        self.affine = Affine()

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Map x (rows, in) to (rows, out)."""
        return self.affine(ops.gelu(x, approximate="none"), weight, bias)


class Normalize(nn.Cell):
    """Layer normalisation of rows with CLIP's epsilon."""

    def __init__(self):
        super().__init__()
        self.norm = ops.LayerNorm(-1, -1, LAYER_NORM_EPS)

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalise x (rows, D); return it with means and variances (rows, 1), which nothing may be derived from."""
        return self.norm(x, weight, bias)


class FastNormalize(Normalize):
    """`Normalize` that takes and spreads its means by matrix products, forward and backward."""

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return as `Normalize`, but for the variances the inverse standard deviations (rows, 1)."""
        width = x.shape[1]
        average = ops.ones((width, 1), ms.float32) / width
        mean = ops.MatMul()(x, average)
        centred = x - _spread(mean, width)
        inverse = ops.rsqrt(ops.MatMul()(centred * centred, average) + LAYER_NORM_EPS)
        return ops.BiasAdd()(centred * ops.MatMul()(inverse, weight.reshape(1, -1)), bias), mean, inverse

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, out: tuple, dout: tuple) -> tuple[Tensor, ...]:
        """Return the gradients of x, weight and bias."""
        dy, width, product = dout[0], x.shape[1], ops.MatMul()
        # Or what is spread here would be taken from the forward pass, and kept since then.
        mean, inverse = ops.depend(out[1], dy), ops.depend(out[2], dy)
        centred = x - _spread(mean, width)
        scaled = dy * centred
        average = weight.reshape(-1, 1) / width  # times it: the mean over a row of what is also times the weight
        constant = inverse * product(dy, average)
        slope = inverse * inverse * inverse * product(scaled, average)
        dx = dy * product(inverse, weight.reshape(1, -1)) - centred * _spread(slope, width) - _spread(constant, width)
        return dx, product(inverse.reshape(1, -1), scaled).reshape(-1), _row_sums(dy)


class AttentionCore(nn.Cell):
    """Scaled dot-product attention of packed queries, keys and values.

    Args:
        heads: How many.
        mask: Added to the scores, (L, L) or larger, of which the first rows and columns count; None adds nothing.
    """

    def __init__(self, heads: int, mask: Tensor | None = None):
        super().__init__()
        self.heads, self.mask, self.masks = heads, mask, mask is not None
        self.scores = Product(batched=True, transpose_b=True)
        self.mix = Product(batched=True)
        self.softmax = ops.Softmax(-1)

    def construct(self, qkv: Tensor) -> tuple[Tensor, Tensor]:
        """Attend within each sequence of qkv (B, L, 3 D).

        Returns:
            The values mixed, (B, L, D), and the attention weights (B, heads, L, L), which nothing may be derived from.
        """
        q, k, v = self._by_head(qkv)
        weights = self._attend(q, k)
        return self._join(self.mix(weights, v)), weights

    def _attend(self, q: Tensor, k: Tensor) -> Tensor:
        length = q.shape[-2]
        scores = self.scores(q, k)
        if self.masks:
            scores = scores + self.mask[:length, :length]
        return self.softmax(scores)

    def _by_head(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, scaled, keys and values, each (B, heads, L, D / heads)."""
        # Slices of a stacked qkv are several times slower on a CPU; ops.split breaks compilation in a backward pass.
        q, k, v = ops.Split(2, 3)(qkv)  # not -1, which the ONNX exporter refuses
        return self._split(q * (q.shape[2] // self.heads) ** -0.5), self._split(k), self._split(v)

    def _split(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        return x.reshape(batch, length, self.heads, width // self.heads).transpose(0, 2, 1, 3)

    def _join(self, x: Tensor) -> Tensor:
        batch, heads, length, width = x.shape
        return x.transpose(0, 2, 1, 3).reshape(batch, length, heads * width)


class FastAttentionCore(AttentionCore):
    """`AttentionCore` that keeps queries, keys and values by head, the attention weights and its result.

    Heads lead: a tensor by head is (heads * B, L, D / heads).
    """

    def __init__(self, heads: int, mask: Tensor | None = None):
        super().__init__(heads, mask)
        self.transposed_mix = Product(batched=True, transpose_a=True)

    def construct(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """Return as `AttentionCore`, but the weights as (heads * B, L, L); then queries, keys and values by head."""
        q, k, v = self._by_head(qkv)
        weights = self._attend(q, k)
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
        return (ops.Concat(-1)(pieces).reshape(qkv.shape),)

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
        """Take (heads * B, L, D / heads) apart into each head's rows (B * L, D / heads)."""
        return ops.Split(0, self.heads)(self._rows(x))

    def _sums_by_head(self, x: Tensor) -> Tensor:
        """Sum x (B, L, D) over each head's share of D, (heads * B * L, 1)."""
        share = x.shape[2] // self.heads
        sums = ops.MatMul()(x.reshape(-1, share), ops.ones((share, 1), ms.float32))
        return sums.reshape(-1, self.heads).transpose(1, 0).reshape(-1, 1)


class ReadoutCore(nn.Cell):
    """Attention from one token of each sequence; it has no fast form, since its cost hardly counts.

    Args:
        width: Of a token, D.
        heads: How many.
        mask: As in `AttentionCore`.
    """

    def __init__(self, width: int, heads: int, mask: Tensor | None = None):
        super().__init__()
        self.heads, self.mask, self.masks = heads, mask, mask is not None
        self.scale = (width // heads) ** -0.5
        # One row a head, 1 at its share of D. A query set out in these rows meets whole keys: none is taken apart.
        self.shares = Tensor(np.kron(np.eye(heads, dtype=np.float32), np.ones(width // heads, np.float32)))
        self.scores = Product(batched=True, transpose_b=True)
        self.mix = Product(batched=True)
        self.softmax = ops.Softmax(-1)

    def construct(self, q: Tensor, k: Tensor, v: Tensor, place: Tensor | None) -> Tensor:
        """Attend from q (B, D) to k and v (B, L, D); `place` (B,) int32 chooses each one's row of the mask.

        Returns:
            The values mixed, (B, D).
        """
        batch, length, width = k.shape
        scores = self.scores((q * self.scale).reshape(batch, 1, width) * self.shares, k)
        if self.masks:
            scores = scores + ops.gather(self.mask[:, :length], place, 0).reshape(batch, 1, length)
        return (self.mix(self.softmax(scores), v) * self.shares).sum(1)


def use_fast_ops(model: nn.Cell) -> None:
    """Put the fast forms in the plain ones' place; call it before half precision is chosen or anything compiled.

    Parameters and their names stay; a second call changes nothing.
    """
    for _, cell in list(model.cells_and_names()):
        for name, child in cell.name_cells().items():
            fast = _fast_form(child)
            if fast is not None:
                setattr(cell, name, fast)


def _fast_form(cell: nn.Cell) -> nn.Cell | None:
    if type(cell) is AttentionCore:
        return FastAttentionCore(cell.heads, cell.mask)
    fast = {Affine: FastAffine, QuickGELUAffine: FastQuickGELUAffine, Normalize: FastNormalize}.get(type(cell))
    return None if fast is None else fast()
