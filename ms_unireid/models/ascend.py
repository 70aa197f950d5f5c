"""The Ascend form of the operations: what MindSpore has a kernel of CANN's newer interface, aclnn, for.

The plain form's Gather, Split, StridedSlice, Argmax, BiasAdd and LayerNorm take the older one, aclop, which compiles
each of them at run time, once for each shape. Layer normalisation, flash attention and the gradient of a lookup have no
kernel on a CPU.
"""

import mindspore as ms
from mindspore import Tensor, mint, nn, ops
from mindspore.ops.auto_generate import SplitWithSize

from ms_unireid.models.ops import (
    LAYER_NORM_EPS,
    SLOPE,
    Affine,
    AttentionCore,
    GELUAffine,
    Normalize,
    Pick,
    QuickGELUAffine,
    ReadoutCore,
)


def _parts(x: Tensor, count: int, axis: int) -> tuple[Tensor, ...]:
    # Not views: with them MindSpore copies tensors that it need not copy otherwise.
    return SplitWithSize()(x, (x.shape[axis] // count,) * count, axis)


def _leading(x: Tensor, length: int, axis: int) -> Tensor:
    return x if length == x.shape[axis] else mint.narrow(x, axis, 0, length)


class AscendAffine(Affine):
    """`Affine` by a plain addition."""

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return (rows, out)."""
        return self.product(x, weight) + bias


class AscendQuickGELUAffine(QuickGELUAffine):
    """`QuickGELUAffine` by SiLU, whose gradient is one kernel and keeps one tensor."""

    affine_form = AscendAffine

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Map x (rows, in) to (rows, out)."""
        return self.affine(ops.silu(SLOPE * x) * (1 / SLOPE), weight, bias)


class AscendGELUAffine(GELUAffine):
    """`GELUAffine` with `AscendAffine`."""

    affine_form = AscendAffine


class AscendNormalize(Normalize):
    """`Normalize` by LayerNormExt."""

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor]:
        """Normalise x (rows, D); no means and variances are returned."""
        return (ops.layer_norm(x, (x.shape[1],), weight, bias, LAYER_NORM_EPS),)


def flash_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, hidden: Tensor | None, dtype: ms.dtype.Type) -> Tensor:
    """Attend from q (B, L', D), not scaled, to k and v (B, L, D) in one kernel, which keeps no attention weights.

    A head's width is a multiple of 16. `hidden`, (L', L) or (B, 1, L', L) bool, is true where a query must not look;
    None hides nothing. `dtype` is float16 or bfloat16; the result (B, L', D) is float32.
    """
    q, k, v = q.astype(dtype), k.astype(dtype), v.astype(dtype)
    scale = (q.shape[2] // heads) ** -0.5
    return ops.flash_attention_score(q, k, v, heads, attn_mask=hidden, scalar_value=scale).astype(ms.float32)


def _fits_flash(width: int, heads: int, dtype: ms.dtype.Type) -> bool:
    return dtype != ms.float32 and width // heads % 16 == 0


class AscendAttentionCore(AttentionCore):
    """`AttentionCore` by flash attention in half precision."""

    def __init__(self, heads: int, mask: Tensor | None = None, precision: str = "fp32"):
        super().__init__(heads, mask, precision)
        self.dtype = self.mix.dtype
        self.hidden = Tensor(mask.asnumpy() < 0) if self.masks else None

    def construct(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """Return the mixed values (B, L, D), without flash attention with the weights (B, heads, L, L)."""
        width, length = qkv.shape[2] // 3, qkv.shape[1]
        if not _fits_flash(width, self.heads, self.dtype):
            return self.attend(qkv)
        q, k, v = self._thirds(qkv.astype(self.dtype))
        hidden = self._corner(self.hidden, length) if self.masks else None
        return (flash_attention(q, k, v, self.heads, hidden, self.dtype),)

    def _corner(self, mask: Tensor, length: int) -> Tensor:
        return _leading(_leading(mask, length, 0), length, 1)

    def _thirds(self, qkv: Tensor) -> tuple[Tensor, ...]:
        return _parts(qkv, 3, 2)


class AscendReadoutCore(ReadoutCore):
    """`ReadoutCore` by flash attention in half precision."""

    def construct(self, q: Tensor, k: Tensor, v: Tensor, position: Tensor | None) -> Tensor:
        """Attend from q (B, D) to k and v (B, L, D); `position` as in `ReadoutCore`."""
        batch, length, width = k.shape
        if not _fits_flash(width, self.heads, self.mix.dtype):
            return self.attend(q, k, v, position)
        hidden = self._mask_rows(position, length).reshape(batch, 1, 1, length) < 0 if self.masks else None
        q = q.reshape(batch, 1, width)
        return flash_attention(q, k, v, self.heads, hidden, self.mix.dtype).reshape(batch, width)

    def _mask_rows(self, position: Tensor, length: int) -> Tensor:
        return _leading(mint.nn.functional.embedding(position, self.mask), length, 1)


class AscendPick(Pick):
    """`Pick` by embeddings."""

    def construct(self, table: Tensor, rows: Tensor) -> Tensor:
        """Look up rows (...) int32 of a table (N, D), (..., D)."""
        return mint.nn.functional.embedding(rows, table)

    def first(self, x: Tensor) -> Tensor:
        """Return the first token of each sequence of x (B, L, D), (B, D)."""
        batch, length, width = x.shape
        return mint.nn.functional.embedding(self._starts(batch, length), x.reshape(batch * length, width))

    def _starts(self, batch: int, length: int) -> Tensor:
        return ops.arange(0, batch * length, length)

    def prefix(self, x: Tensor, length: int) -> Tensor:
        """Return the first `length` rows of x."""
        return _leading(x, length, 0)

    def parts(self, x: Tensor, count: int, axis: int = 0) -> tuple[Tensor, ...]:
        """Split x along an axis into equal parts."""
        return _parts(x, count, axis)

    def largest(self, x: Tensor) -> Tensor:
        """Return where each row of x (B, L) is largest, (B,) int32."""
        return mint.argmax(x.astype(ms.float32), -1).astype(ms.int32)


KINDS: dict[type[nn.Cell], type[nn.Cell]] = {
    Affine: AscendAffine,
    QuickGELUAffine: AscendQuickGELUAffine,
    GELUAffine: AscendGELUAffine,
    Normalize: AscendNormalize,
    AttentionCore: AscendAttentionCore,
    ReadoutCore: AscendReadoutCore,
    Pick: AscendPick,
}
