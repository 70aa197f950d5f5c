"""The plain form of the towers' operations, with MindSpore's gradients; `forms` and `ascend` hold the others.

Every operation takes the `precision` of its matrix products, see `PRODUCTS`. Everything else stays float32.
"""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

# With AVX512-BF16 and without AMX, `bf16` on a CPU: our own operator multiplies in the fast forms of maps.
ROUNDED = "rounded"
# The type that MindSpore computes matrix products in for each `runtime.precision`.
PRODUCTS = {"fp32": ms.float32, "mixed": ms.float16, "bf16": ms.bfloat16, ROUNDED: ms.float32}
LAYER_NORM_EPS = 1e-5
SLOPE = 1.702  # of QuickGELU's sigmoid


class MatMul(nn.Cell):
    """A product of float32 matrices, or `batched` stacks of them; the result is float32.

    `precision`, one of `PRODUCTS`, says in which type it is computed.
    """

    def __init__(
        self, batched: bool = False, transpose_a: bool = False, transpose_b: bool = False, precision: str = "fp32"
    ):
        super().__init__()
        self.precision, self.dtype = precision, PRODUCTS[precision]
        multiply = ops.BatchMatMul if batched else ops.MatMul
        self.multiply = multiply(transpose_a=transpose_a, transpose_b=transpose_b)

    def construct(self, a: Tensor, b: Tensor) -> Tensor:
        """Multiply a (..., M, K) by b (..., K, N), or either given transposed."""
        if self.dtype == ms.float32:
            return self.multiply(a, b)
        return self.multiply(a.astype(self.dtype), b.astype(self.dtype)).astype(ms.float32)


class Affine(nn.Cell):
    """x W^T + b for x (rows, in), weight (out, in) and bias (out,)."""

    def __init__(self, precision: str = "fp32"):
        super().__init__()
        self.product = MatMul(transpose_b=True, precision=precision)
        self.add_bias = ops.BiasAdd()

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return (rows, out)."""
        return self.add_bias(self.product(x, weight), bias)


class QuickGELUAffine(nn.Cell):
    """QuickGELU, x * sigmoid(1.702 x), then `Affine`; one operation, because the fast form needs both."""

    affine_form = Affine

    def __init__(self, precision: str = "fp32"):
        super().__init__()
        self.affine = self.affine_form(precision)

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Map x (rows, in) to (rows, out)."""
        return self.affine(x * ops.sigmoid(SLOPE * x), weight, bias)


class GELUAffine(nn.Cell):
    """The exact GELU, then `Affine`."""

    affine_form = Affine

    def __init__(self, precision: str = "fp32"):
        super().__init__()
        self.affine = self.affine_form(precision)

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Map x (rows, in) to (rows, out)."""
        return self.affine(ops.gelu(x, approximate="none"), weight, bias)


class Normalize(nn.Cell):
    """Layer normalisation of rows with CLIP's epsilon; always in float32."""

    def __init__(self, precision: str = "fp32"):
        super().__init__()
        self.norm = ops.LayerNorm(-1, -1, LAYER_NORM_EPS)

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalise x (rows, D); return it with means and variances (rows, 1), which have no gradient."""
        return self.norm(x, weight, bias)


class AttentionCore(nn.Cell):
    """Scaled dot-product attention of packed queries, keys and values.

    `mask` is added to the scores, (L, L); of a larger one the first rows and columns are used. None adds nothing.
    """

    def __init__(self, heads: int, mask: Tensor | None = None, precision: str = "fp32"):
        super().__init__()
        self.heads, self.mask, self.masks = heads, mask, mask is not None
        self.scores = MatMul(batched=True, transpose_b=True, precision=precision)
        self.mix = MatMul(batched=True, precision=precision)
        self.softmax = ops.Softmax(-1)

    def construct(self, qkv: Tensor) -> tuple[Tensor, Tensor]:
        """Attend within each sequence of qkv (B, L, 3 D).

        Returns the mixed values, (B, L, D), and the attention weights (B, heads, L, L), which have no gradient.
        """
        return self.attend(qkv)

    def attend(self, qkv: Tensor) -> tuple[Tensor, Tensor]:
        """Do what `construct` says by two products and a softmax."""
        q, k, v = self._by_head(qkv)
        weights = self._weights(q, k)
        return self._join(self.mix(weights, v)), weights

    def _weights(self, q: Tensor, k: Tensor) -> Tensor:
        length = q.shape[-2]
        scores = self.scores(q, k)
        if self.masks:
            scores = scores + self._corner(self.mask, length)
        return self.softmax(scores)

    def _corner(self, mask: Tensor, length: int) -> Tensor:
        return mask[:length, :length]

    def _by_head(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, scaled, keys and values, each (B, heads, L, D / heads)."""
        q, k, v = self._thirds(qkv)
        return self._split(q * (q.shape[2] // self.heads) ** -0.5), self._split(k), self._split(v)

    def _thirds(self, qkv: Tensor) -> tuple[Tensor, ...]:
        # Slices of a stacked qkv are several times slower on a CPU; ops.split breaks compilation in a backward pass.
        return ops.Split(2, 3)(qkv)  # not -1, which the ONNX exporter refuses

    def _split(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        return x.reshape(batch, length, self.heads, width // self.heads).transpose(0, 2, 1, 3)

    def _join(self, x: Tensor) -> Tensor:
        batch, heads, length, width = x.shape
        return x.transpose(0, 2, 1, 3).reshape(batch, length, heads * width)


class ReadoutCore(nn.Cell):
    """Attention from one token of each sequence; the fast form has none of its own because it costs little."""

    def __init__(self, width: int, heads: int, mask: Tensor | None = None, precision: str = "fp32"):
        super().__init__()
        self.heads, self.mask, self.masks = heads, mask, mask is not None
        self.scale = (width // heads) ** -0.5
        # One row per head, 1 at the head's share of D. A query times these rows meets whole keys, not split by head.
        self.shares = Tensor(np.kron(np.eye(heads, dtype=np.float32), np.ones(width // heads, np.float32)))
        self.scores = MatMul(batched=True, transpose_b=True, precision=precision)
        self.mix = MatMul(batched=True, precision=precision)
        self.softmax = ops.Softmax(-1)

    def construct(self, q: Tensor, k: Tensor, v: Tensor, position: Tensor | None) -> Tensor:
        """Attend from q (B, D) to k and v (B, L, D); return the mixed values, (B, D).

        `position` (B,) int32 chooses each token's row of the mask.
        """
        return self.attend(q, k, v, position)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, position: Tensor | None) -> Tensor:
        """Do what `construct` says by two products and a softmax."""
        batch, length, width = k.shape
        scores = self.scores((q * self.scale).reshape(batch, 1, width) * self.shares, k)
        if self.masks:
            scores = scores + self._mask_rows(position, length).reshape(batch, 1, length)
        return (self.mix(self.softmax(scores), v) * self.shares).sum(1)

    def _mask_rows(self, position: Tensor, length: int) -> Tensor:
        return ops.gather(self.mask[:, :length], position, 0)


class Pick(nn.Cell):
    """Picks parts of tensors."""

    def __init__(self, precision: str = "fp32"):
        super().__init__()
        self.argmax, self.range = ops.Argmax(-1), ops.Range()

    def construct(self, table: Tensor, rows: Tensor) -> Tensor:
        """Look up rows (...) int32 of a table (N, D), (..., D)."""
        return ops.gather(table, rows, 0)

    def first(self, x: Tensor) -> Tensor:
        """Return the first token of each sequence of x (B, L, D), (B, D)."""
        return x[:, 0]

    def token(self, x: Tensor, index: Tensor) -> Tensor:
        """Return the token at `index`, (B,) int32, of each sequence of x (B, L, D), (B, D)."""
        batch, length, width = x.shape
        return self.construct(x.reshape(batch * length, width), self._starts(batch, length) + index)

    def _starts(self, batch: int, length: int) -> Tensor:
        return self.range(0, batch * length, length)  # `ops.arange` takes a second to compile

    def prefix(self, x: Tensor, length: int) -> Tensor:
        """Return the first `length` rows of x."""
        return x[:length]

    def parts(self, x: Tensor, count: int, axis: int = 0) -> tuple[Tensor, ...]:
        """Split x along an axis into equal parts."""
        return ops.Split(axis, count)(x)

    def largest(self, x: Tensor) -> Tensor:
        """Return where each row of x (B, L) is largest, (B,) int32."""
        return self.argmax(x.astype(ms.float32))
