"""The towers' building operations, and for each a fast form with a gradient of its own.

MindSpore derives gradients operation by operation: on a CPU those of bias, LayerNorm and softmax run on one core, and
every intermediate is kept for them. A fast form computes the same forward by the same kernels, sums over rows by
matrix products, and computes cheap things again rather than keep them.
"""

import mindspore as ms
from mindspore import Tensor, nn, ops

from ms_unireid.models.products import Product

LAYER_NORM_EPS = 1e-5
_SLOPE = 1.702  # of QuickGELU's sigmoid


def _row_sums(x: Tensor) -> Tensor:
    """Sum x (rows, D) over rows, (D,)."""
    return ops.MatMul()(ops.ones((1, x.shape[0]), ms.float32), x).reshape(-1)


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
        self.to_input, self.to_weight = Product(), Product(transpose_a=True)

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of x, weight and bias."""
        return self.to_input(dout, weight), self.to_weight(dout, x), _row_sums(dout)


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
        self.to_input, self.to_weight = Product(), Product(transpose_a=True)

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of x, weight and bias."""
        gate = ops.sigmoid(_SLOPE * x)
        active = x * gate
        slope = gate * (_SLOPE * (x - active) + 1)
        return self.to_input(dout, weight) * slope, self.to_weight(dout, active), _row_sums(dout)


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
    """`Normalize` whose backward pass takes its means by matrix products."""

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, out: tuple, dout: tuple) -> tuple[Tensor, ...]:
        """Return the gradients of x, weight and bias."""
        _, mean, variance = out
        dy = dout[0]
        inverse = ops.rsqrt(variance + LAYER_NORM_EPS)
        normal = (x - mean) * inverse
        scaled = dy * normal
        average = weight.reshape(-1, 1) / x.shape[-1]  # times it: the mean over a row of dy * weight
        product = ops.MatMul()
        dx = (dy * weight - product(dy, average) - normal * product(scaled, average)) * inverse
        return dx, _row_sums(scaled), _row_sums(dy)


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
        length = qkv.shape[1]
        q, k, v = self._by_head(qkv)
        scores = self.scores(q, k)
        if self.masks:
            scores = scores + self.mask[:length, :length]
        weights = self.softmax(scores)
        return self._join(self.mix(weights, v)), weights

    def _by_head(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, scaled, keys and values, each (B, heads, L, D / heads)."""
        # Slices of a stacked qkv are several times slower on a CPU; ops.split breaks compilation in a backward pass.
        q, k, v = ops.Split(-1, 3)(qkv)
        return self._split(q * (q.shape[2] // self.heads) ** -0.5), self._split(k), self._split(v)

    def _split(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        return x.reshape(batch, length, self.heads, width // self.heads).transpose(0, 2, 1, 3)

    def _join(self, x: Tensor) -> Tensor:
        batch, heads, length, width = x.shape
        return x.transpose(0, 2, 1, 3).reshape(batch, length, heads * width)


class FastAttentionCore(AttentionCore):
    """`AttentionCore` that keeps qkv, the attention weights and its result, and sums softmax's gradient by products."""

    def __init__(self, heads: int, mask: Tensor | None = None):
        super().__init__(heads, mask)
        self.transposed_mix = Product(batched=True, transpose_a=True)

    def bprop(self, qkv: Tensor, out: tuple, dout: tuple) -> Tensor:
        """Return the gradient of qkv."""
        (mixed, weights), dmixed = out, dout[0]
        q, k, v = self._by_head(qkv)
        dout_by_head = self._split(dmixed)
        dscores = weights * (self.scores(dout_by_head, v) - self._sums_by_head(dmixed * mixed))
        dq = self.mix(dscores, k) * q.shape[3] ** -0.5
        dk = self.transposed_mix(dscores, q)
        dv = self.transposed_mix(weights, dout_by_head)
        return (ops.concat((self._join(dq), self._join(dk), self._join(dv)), -1),)

    def _sums_by_head(self, x: Tensor) -> Tensor:
        """Sum x (B, L, D) over each head's share of D, (B, heads, L, 1)."""
        batch, length, width = x.shape
        share = width // self.heads
        sums = ops.MatMul()(x.reshape(-1, share), ops.ones((share, 1), ms.float32))
        return sums.reshape(batch, length, self.heads, 1).transpose(0, 2, 1, 3)


def use_fast_gradients(model: nn.Cell) -> None:
    """Put the fast forms in the plain ones' place; call it before half precision is chosen or anything compiled."""
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
