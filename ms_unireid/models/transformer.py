"""The pre-LayerNorm transformer both towers are made of; parameter names are CLIP's.

Linear maps run as 2-D products: on a CPU MindSpore is several times slower with 3-D ones.
"""

import numpy as np
from mindspore import Parameter, Tensor, nn

from ms_unireid.config_schema import TowerSize
from ms_unireid.models.forms import Operations
from ms_unireid.models.ops import Affine, AttentionCore, GELUAffine, Normalize, Pick, QuickGELUAffine, ReadoutCore


def normal_parameter(rng: np.random.Generator | None, shape: tuple[int, ...], std: float) -> Parameter:
    """Return a float32 parameter drawn from N(0, std^2); `rng` alone decides the values, and None leaves zeros."""
    if rng is None:
        return Parameter(Tensor(np.zeros(shape, np.float32)))
    return Parameter(Tensor(rng.standard_normal(shape, dtype=np.float32) * np.float32(std)))


class LayerNorm(nn.Cell):
    """Layer normalisation over the last axis with CLIP's parameter names and epsilon."""

    def __init__(self, width: int, operations: Operations):
        super().__init__()
        self.weight = Parameter(Tensor(np.ones(width, np.float32)))
        self.bias = Parameter(Tensor(np.zeros(width, np.float32)))
        self.normalize = operations.make(Normalize)

    def construct(self, x: Tensor) -> Tensor:
        """Normalise x (..., D)."""
        return self.normalize(x.reshape(-1, x.shape[-1]), self.weight, self.bias)[0].reshape(x.shape)


class Linear(nn.Cell):
    """A linear map of rows, after an activation if `operation` has one; `weight` is (out, in) as in PyTorch."""

    def __init__(self, inputs: int, outputs: int, std: float, rng: np.random.Generator | None, operation: nn.Cell):
        super().__init__()
        self.weight = normal_parameter(rng, (outputs, inputs), std)
        self.bias = Parameter(Tensor(np.zeros(outputs, np.float32)))
        self.operation = operation

    def construct(self, x: Tensor) -> Tensor:
        """Map x (rows, in) to (rows, out)."""
        return self.operation(x, self.weight, self.bias)


class Attention(nn.Cell):
    """Multi-head self-attention with a packed query, key, value projection.

    `out_std` is the standard deviation of the initial output projection; `core` attends with what is projected.
    """

    def __init__(
        self, size: TowerSize, out_std: float, rng: np.random.Generator | None, operations: Operations, core: nn.Cell
    ):
        super().__init__()
        width = size.width
        self.in_proj_weight = normal_parameter(rng, (3 * width, width), width**-0.5)
        self.in_proj_bias = Parameter(Tensor(np.zeros(3 * width, np.float32)))
        self.out_proj = Linear(width, width, out_std, rng, operations.make(Affine))
        self.in_proj = operations.make(Affine)
        self.core = core

    def construct(self, x: Tensor) -> Tensor:
        """Attend within each sequence of x (B, L, D)."""
        batch, length, width = x.shape
        qkv = self.in_proj(x.reshape(-1, width), self.in_proj_weight, self.in_proj_bias)
        mixed = self.core(qkv.reshape(batch, length, 3 * width))[0]
        return self.out_proj(mixed.reshape(-1, width)).reshape(x.shape)


class ReadoutAttention(Attention):
    """Attention from one token of each sequence, with the same parameters."""

    def __init__(
        self, size: TowerSize, out_std: float, rng: np.random.Generator | None, operations: Operations, core: nn.Cell
    ):
        super().__init__(size, out_std, rng, operations, core)
        self.pick = operations.make(Pick)

    def construct(self, token: Tensor, x: Tensor, position: Tensor | None) -> Tensor:
        """Attend from each token (B, D) to its sequence of x (B, L, D); `position` as in `ReadoutBlock`."""
        rows = x.reshape(-1, x.shape[-1])
        to_q, to_k, to_v = self.pick.parts(self.in_proj_weight, 3)
        q_bias, k_bias, v_bias = self.pick.parts(self.in_proj_bias, 3)
        k, v = self.in_proj(rows, to_k, k_bias).reshape(x.shape), self.in_proj(rows, to_v, v_bias).reshape(x.shape)
        return self.out_proj(self.core(self.in_proj(token, to_q, q_bias), k, v, position))


class MLP(nn.Cell):
    """Two linear maps around `activation`: QuickGELU, x * sigmoid(1.702 x), or the exact GELU."""

    def __init__(
        self, width: int, out_std: float, activation: str, rng: np.random.Generator | None, operations: Operations
    ):
        super().__init__()
        activated = operations.make(QuickGELUAffine if activation == "quick_gelu" else GELUAffine)
        self.c_fc = Linear(width, 4 * width, (2 * width) ** -0.5, rng, operations.make(Affine))
        self.c_proj = Linear(4 * width, width, out_std, rng, activated)

    def construct(self, x: Tensor) -> Tensor:
        """Map x (..., D) to the same shape."""
        return self.c_proj(self.c_fc(x.reshape(-1, x.shape[-1]))).reshape(x.shape)


class ResidualAttentionBlock(nn.Cell):
    """One pre-LayerNorm block: attention, then MLP with its `activation`, each added to its input.

    `mask`, (L, L) or larger, is added to the attention scores; None adds nothing.
    """

    def __init__(
        self,
        size: TowerSize,
        activation: str,
        rng: np.random.Generator | None,
        operations: Operations,
        mask: Tensor | None = None,
    ):
        super().__init__()
        out_std = size.width**-0.5 * (2 * size.layers) ** -0.5
        self.attn = self._attention(size, out_std, rng, operations, mask)
        self.ln_1 = LayerNorm(size.width, operations)
        self.mlp = MLP(size.width, out_std, activation, rng, operations)
        self.ln_2 = LayerNorm(size.width, operations)

    @staticmethod
    def _attention(size: TowerSize, out_std: float, rng, operations: Operations, mask: Tensor | None) -> Attention:
        return Attention(size, out_std, rng, operations, operations.make(AttentionCore, size.heads, mask))

    def construct(self, x: Tensor) -> Tensor:
        """Map x (B, L, D) to the same shape."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class ReadoutBlock(ResidualAttentionBlock):
    """The last block, computed only for the token that is read out; the numbers are those of the whole block."""

    @staticmethod
    def _attention(size: TowerSize, out_std: float, rng, operations: Operations, mask: Tensor | None) -> Attention:
        core = operations.make(ReadoutCore, size.width, size.heads, mask)
        return ReadoutAttention(size, out_std, rng, operations, core)

    def construct(self, token: Tensor, x: Tensor, position: Tensor | None = None) -> Tensor:
        """Map the tokens (B, D) that are read out of the sequences in x (B, L, D), the input, to the same shape.

        `position` is that of each token in its sequence, (B,) int32; needed with a mask.
        """
        token = token + self.attn(self.ln_1(token), self.ln_1(x), position)
        return token + self.mlp(self.ln_2(token))


class Transformer(nn.Cell):
    """Blocks, the last one a `ReadoutBlock`, initialised as CLIP's text tower; see `ResidualAttentionBlock`."""

    def __init__(
        self,
        size: TowerSize,
        activation: str,
        rng: np.random.Generator | None,
        operations: Operations,
        mask: Tensor | None = None,
    ):
        super().__init__()
        kinds = [ResidualAttentionBlock] * (size.layers - 1) + [ReadoutBlock]
        self.resblocks = nn.CellList([kind(size, activation, rng, operations, mask) for kind in kinds])
        if operations.recompute:
            for block in self.resblocks:
                block.recompute()

    def construct(self, x: Tensor) -> Tensor:
        """Map x (B, L, D) to the last block's input, of the same shape."""
        for i in range(len(self.resblocks) - 1):
            x = self.resblocks[i](x)
        return x

    def read_out(self, token: Tensor, x: Tensor, position: Tensor | None = None) -> Tensor:
        """Map the tokens that are read out, (B, D), through the last block; arguments as in `ReadoutBlock`."""
        return self.resblocks[-1](token, x, position)
