"""The pre-LayerNorm transformer both towers are made of; parameter names are CLIP's.

Linear maps run as 2-D products and q, k, v come from one split: on a CPU MindSpore is several times slower
with 3-D products or with slices of a stacked qkv.
"""

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from ms_unireid.architectures import TowerSize
from ms_unireid.models.products import Product

LAYER_NORM_EPS = 1e-5


def normal_parameter(rng: np.random.Generator, shape: tuple[int, ...], std: float) -> Parameter:
    """Return a float32 parameter drawn from N(0, std^2); `rng` alone decides the values."""
    return Parameter(Tensor(rng.standard_normal(shape, dtype=np.float32) * np.float32(std)))


class LayerNorm(nn.Cell):
    """Layer normalisation over the last axis with CLIP's parameter names and epsilon."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = Parameter(Tensor(np.ones(width, np.float32)))
        self.bias = Parameter(Tensor(np.zeros(width, np.float32)))
        self.norm = ops.LayerNorm(-1, -1, LAYER_NORM_EPS)

    def construct(self, x: Tensor) -> Tensor:
        """Normalise x (..., D)."""
        return self.norm(x, self.weight, self.bias)[0]


class Linear(nn.Cell):
    """y = x W^T + b on rows; `weight` is (out, in) as in PyTorch."""

    def __init__(self, inputs: int, outputs: int, std: float, rng: np.random.Generator):
        super().__init__()
        self.weight = normal_parameter(rng, (outputs, inputs), std)
        self.bias = Parameter(Tensor(np.zeros(outputs, np.float32)))
        self.product = Product(transpose_b=True)
        self.add_bias = ops.BiasAdd()

    def construct(self, x: Tensor) -> Tensor:
        """Map x (rows, in) to (rows, out)."""
        return self.add_bias(self.product(x, self.weight), self.bias)


class Attention(nn.Cell):
    """Multi-head self-attention with a packed query, key, value projection."""

    def __init__(self, width: int, heads: int, out_std: float, rng: np.random.Generator):
        super().__init__()
        self.width, self.heads = width, heads
        self.scale = (width // heads) ** -0.5
        self.in_proj_weight = normal_parameter(rng, (3 * width, width), width**-0.5)
        self.in_proj_bias = Parameter(Tensor(np.zeros(3 * width, np.float32)))
        self.out_proj = Linear(width, width, out_std, rng)
        self.product = Product(transpose_b=True)
        self.add_bias = ops.BiasAdd()
        self.scores = Product(batched=True, transpose_b=True)
        self.mix = Product(batched=True)
        self.softmax = ops.Softmax(-1)

    def construct(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within each sequence of x (B, L, D); `mask` (L, L) is added to the scores."""
        batch, length, width = x.shape
        heads = (batch, length, self.heads, width // self.heads)
        qkv = self.add_bias(self.product(x.reshape(-1, width), self.in_proj_weight), self.in_proj_bias)
        q, k, v = ops.split(qkv, self.width, -1)
        q = (q * self.scale).reshape(heads).transpose(0, 2, 1, 3)  # (B, heads, L, D / heads)
        k = k.reshape(heads).transpose(0, 2, 1, 3)
        v = v.reshape(heads).transpose(0, 2, 1, 3)
        scores = self.scores(q, k)  # (B, heads, L, L)
        if mask is not None:
            scores = scores + mask
        out = self.mix(self.softmax(scores), v).transpose(0, 2, 1, 3).reshape(-1, width)
        return self.out_proj(out).reshape(batch, length, width)


class MLP(nn.Cell):
    """Two linear maps around `activation`: QuickGELU, x * sigmoid(1.702 x), or the exact GELU."""

    def __init__(self, width: int, fc_std: float, out_std: float, activation: str, rng: np.random.Generator):
        super().__init__()
        self.quick = activation == "quick_gelu"
        self.c_fc = Linear(width, 4 * width, fc_std, rng)
        self.c_proj = Linear(4 * width, width, out_std, rng)

    def construct(self, x: Tensor) -> Tensor:
        """Map x (B, L, D) to the same shape."""
        hidden = self.c_fc(x.reshape(-1, x.shape[-1]))
        hidden = hidden * ops.sigmoid(1.702 * hidden) if self.quick else ops.gelu(hidden, approximate="none")
        return self.c_proj(hidden).reshape(x.shape)


class ResidualAttentionBlock(nn.Cell):
    """One pre-LayerNorm block: attention, then MLP, each added to its input."""

    def __init__(self, width: int, layers: int, heads: int, activation: str, rng: np.random.Generator):
        super().__init__()
        out_std = width**-0.5 * (2 * layers) ** -0.5
        self.attn = Attention(width, heads, out_std, rng)
        self.ln_1 = LayerNorm(width)
        self.mlp = MLP(width, (2 * width) ** -0.5, out_std, activation, rng)
        self.ln_2 = LayerNorm(width)

    def construct(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map x (B, L, D) to the same shape."""
        x = x + self.attn(self.ln_1(x), mask)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Cell):
    """A stack of blocks, initialised as CLIP's text tower."""

    def __init__(self, size: TowerSize, activation: str, rng: np.random.Generator):
        super().__init__()
        width, layers, heads = size.width, size.layers, size.heads
        self.resblocks = nn.CellList(
            [ResidualAttentionBlock(width, layers, heads, activation, rng) for _ in range(layers)]
        )

    def construct(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map x (B, L, D) to the same shape; `mask` (L, L) is added to every block's scores."""
        for block in self.resblocks:
            x = block(x, mask)
        return x
