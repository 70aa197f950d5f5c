"""The pre-LayerNorm transformer both towers are made of; parameter names are CLIP's.

Linear maps run as 2-D products: on a CPU MindSpore is several times slower with 3-D ones.
"""

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from ms_unireid.config_schema import TowerSize
from ms_unireid.models.ops import Affine, AttentionCore, GELUAffine, Normalize, QuickGELUAffine, ReadoutCore


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


class ReadoutAttention(Attention):
    """Attention from one token of each sequence, with the same parameters."""

    def __init__(self, width: int, heads: int, out_std: float, rng: np.random.Generator, mask: Tensor | None):
        super().__init__(width, heads, out_std, rng, mask)
        self.core = ReadoutCore(width, heads, mask)
        self.apart = ops.Split(0, 3)

    def construct(self, token: Tensor, x: Tensor, place: Tensor | None) -> Tensor:
        """Attend from each token (B, D) to its sequence of x (B, L, D); `place` as in `ReadoutBlock`."""
        rows = x.reshape(-1, x.shape[-1])
        to_q, to_k, to_v = self.apart(self.in_proj_weight)
        q_bias, k_bias, v_bias = self.apart(self.in_proj_bias)
        k, v = self.in_proj(rows, to_k, k_bias).reshape(x.shape), self.in_proj(rows, to_v, v_bias).reshape(x.shape)
        return self.out_proj(self.core(self.in_proj(token, to_q, q_bias), k, v, place))


class MLP(nn.Cell):
    """Two linear maps around `activation`: QuickGELU, x * sigmoid(1.702 x), or the exact GELU."""

    def __init__(self, width: int, fc_std: float, out_std: float, activation: str, rng: np.random.Generator):
        super().__init__()
        activated = QuickGELUAffine() if activation == "quick_gelu" else GELUAffine()
        self.c_fc = Linear(width, 4 * width, fc_std, rng, Affine())
        self.c_proj = Linear(4 * width, width, out_std, rng, activated)

    def construct(self, x: Tensor) -> Tensor:
        """Map x (..., D) to the same shape."""
        return self.c_proj(self.c_fc(x.reshape(-1, x.shape[-1]))).reshape(x.shape)


class ResidualAttentionBlock(nn.Cell):
    """One pre-LayerNorm block: attention, then MLP, each added to its input."""

    attention: type[Attention] = Attention

    def __init__(self, size: TowerSize, activation: str, rng: np.random.Generator, mask: Tensor | None):
        super().__init__()
        width = size.width
        out_std = width**-0.5 * (2 * size.layers) ** -0.5
        self.attn = self.attention(width, size.heads, out_std, rng, mask)
        self.ln_1 = LayerNorm(width)
        self.mlp = MLP(width, (2 * width) ** -0.5, out_std, activation, rng)
        self.ln_2 = LayerNorm(width)

    def construct(self, x: Tensor) -> Tensor:
        """Map x (B, L, D) to the same shape."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class ReadoutBlock(ResidualAttentionBlock):
    """The last block, computed for the one token of each sequence that is read behind it.

    Nothing else of its output reaches a feature, so that the numbers are those of the whole block.
    """

    attention = ReadoutAttention

    def construct(self, token: Tensor, x: Tensor, place: Tensor | None = None) -> Tensor:
        """Map tokens (B, D), each one of its sequence's in x (B, L, D), to the same shape.

        Args:
            token: The tokens that are read.
            x: The block's input.
            place: Where in its sequence each token is, (B,) int32; a mask asks for it.
        """
        token = token + self.attn(self.ln_1(token), self.ln_1(x), place)
        return token + self.mlp(self.ln_2(token))


class Transformer(nn.Cell):
    """A stack of blocks, initialised as CLIP's text tower; `mask` is added to every block's attention scores."""

    def __init__(self, size: TowerSize, activation: str, rng: np.random.Generator, mask: Tensor | None = None):
        super().__init__()
        kinds = [ResidualAttentionBlock] * (size.layers - 1) + [ReadoutBlock]
        self.resblocks = nn.CellList([kind(size, activation, rng, mask) for kind in kinds])

    def construct(self, x: Tensor) -> Tensor:
        """Map x (B, L, D) to the last block's input, of the same shape."""
        for i in range(len(self.resblocks) - 1):
            x = self.resblocks[i](x)
        return x

    def read(self, token: Tensor, x: Tensor, place: Tensor | None = None) -> Tensor:
        """Map the tokens to be read, (B, D), through the last block; arguments as in `ReadoutBlock`."""
        return self.resblocks[-1](token, x, place)
