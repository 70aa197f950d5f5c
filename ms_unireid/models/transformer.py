"""The pre-LayerNorm transformer both towers are made of; parameter names are CLIP's.

Linear maps run as 2-D products: on a CPU MindSpore is several times slower with 3-D ones.
"""

import numpy as np
from mindspore import Parameter, Tensor, nn

from ms_unireid.architectures import TowerSize
from ms_unireid.models.ops import Affine, AttentionCore, GELUAffine, Normalize, QuickGELUAffine


def normal_parameter(rng: np.random.Generator, shape: tuple[int, ...], std: float) -> Parameter:
    """Return a float32 parameter drawn from N(0, std^2); `rng` alone decides the values."""
    return Parameter(Tensor(rng.standard_normal(shape, dtype=np.float32) * np.float32(std)))


class LayerNorm(nn.Cell):
    """Layer normalisation over the last axis with CLIP's parameter names and epsilon."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = Parameter(Tensor(np.ones(width, np.float32)))
        self.bias = Parameter(Tensor(np.zeros(width, np.float32)))
        self.normalize = Normalize()

    def construct(self, x: Tensor) -> Tensor:
        """Normalise x (..., D)."""
        return self.normalize(x.reshape(-1, x.shape[-1]), self.weight, self.bias)[0].reshape(x.shape)


class Linear(nn.Cell):
    """A linear map of rows, possibly of an activation of them; `weight` is (out, in) as in PyTorch."""

    def __init__(self, inputs: int, outputs: int, std: float, rng: np.random.Generator, operation: nn.Cell):
        super().__init__()
        self.weight = normal_parameter(rng, (outputs, inputs), std)
        self.bias = Parameter(Tensor(np.zeros(outputs, np.float32)))
        self.operation = operation

    def construct(self, x: Tensor) -> Tensor:
        """Map x (rows, in) to (rows, out)."""
        return self.operation(x, self.weight, self.bias)


class Attention(nn.Cell):
    """Multi-head self-attention with a packed query, key, value projection."""

    def __init__(self, width: int, heads: int, out_std: float, rng: np.random.Generator, mask: Tensor | None):
        super().__init__()
        self.in_proj_weight = normal_parameter(rng, (3 * width, width), width**-0.5)
        self.in_proj_bias = Parameter(Tensor(np.zeros(3 * width, np.float32)))
        self.out_proj = Linear(width, width, out_std, rng, Affine())
        self.in_proj = Affine()
        self.core = AttentionCore(heads, mask)

    def construct(self, x: Tensor) -> Tensor:
        """Attend within each sequence of x (B, L, D)."""
        batch, length, width = x.shape
        qkv = self.in_proj(x.reshape(-1, width), self.in_proj_weight, self.in_proj_bias)
        mixed = self.core(qkv.reshape(batch, length, 3 * width))[0]
        return self.out_proj(mixed.reshape(-1, width)).reshape(x.shape)


class MLP(nn.Cell):
    """Two linear maps around `activation`: QuickGELU, x * sigmoid(1.702 x), or the exact GELU."""

    def __init__(self, width: int, fc_std: float, out_std: float, activation: str, rng: np.random.Generator):
        super().__init__()
        activated = QuickGELUAffine() if activation == "quick_gelu" else GELUAffine()
        self.c_fc = Linear(width, 4 * width, fc_std, rng, Affine())
        self.c_proj = Linear(4 * width, width, out_std, rng, activated)

    def construct(self, x: Tensor) -> Tensor:
        """Map x (B, L, D) to the same shape."""
        return self.c_proj(self.c_fc(x.reshape(-1, x.shape[-1]))).reshape(x.shape)


class ResidualAttentionBlock(nn.Cell):
    """One pre-LayerNorm block: attention, then MLP, each added to its input."""

    def __init__(self, size: TowerSize, activation: str, rng: np.random.Generator, mask: Tensor | None):
        super().__init__()
        width = size.width
        out_std = width**-0.5 * (2 * size.layers) ** -0.5
        self.attn = Attention(width, size.heads, out_std, rng, mask)
        self.ln_1 = LayerNorm(width)
        self.mlp = MLP(width, (2 * width) ** -0.5, out_std, activation, rng)
        self.ln_2 = LayerNorm(width)

    def construct(self, x: Tensor) -> Tensor:
        """Map x (B, L, D) to the same shape."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Cell):
    """A stack of blocks, initialised as CLIP's text tower; `mask` is added to every block's attention scores."""

    def __init__(self, size: TowerSize, activation: str, rng: np.random.Generator, mask: Tensor | None = None):
        super().__init__()
        self.resblocks = nn.CellList([ResidualAttentionBlock(size, activation, rng, mask) for _ in range(size.layers)])

    def construct(self, x: Tensor) -> Tensor:
        """Map x (B, L, D) to the same shape."""
        for block in self.resblocks:
            x = block(x)
        return x
