"""The towers compiled for encoding: the same features as the model's, with less compilation.

In one graph every block of the visual tower would be compiled, and on a CPU the kernels of each block take ten batches
to choose their threads. So one graph of two blocks serves all blocks but the last, two at a time. The text tower is one
graph for captions of any length; split like the visual tower it would be an eighth slower. Ascend and GPU take
captions of few lengths instead, a graph for each, since they are slow with shapes that are open.
"""

from collections.abc import Sequence

import mindspore as ms
from mindspore import Tensor, nn

from ms_unireid.config_schema import CONTEXT_LENGTH
from ms_unireid.models.transformer import ResidualAttentionBlock
from ms_unireid.models.unireid import UNIReID
from ms_unireid.models.vision import VisionTransformer

# Blocks per graph. On two cores MindSpore runs a graph of under a hundred kernels, such as one block, in the calling
# thread, which then spins while others compute: a fifth slower.
_PIECE = 2
# Captions keep at least this many tokens: below about ten, other kernels compute them and round differently.
_SHORTEST = 16
_LENGTHS_ON_DEVICES = (_SHORTEST, 32, 48, 64, CONTEXT_LENGTH, 104, 136, 184)


class TextEncoder(nn.Cell):
    """`encode_text`, compiled once for batches and captions of any length; on Ascend and GPU once for each shape."""

    def __init__(self, model: UNIReID):
        super().__init__(auto_prefix=False)
        self.tower = model.base_model
        # The numbers of tokens that captions may be cut to, ascending; a shorter context length is one more.
        longest = max(CONTEXT_LENGTH, len(self.tower.positional_embedding))
        self.lengths: Sequence[int] = (*(n for n in _LENGTHS_ON_DEVICES if n < longest), longest)
        if ms.get_context("device_target") == "CPU":
            self.lengths = range(_SHORTEST, longest + 1)
            self.set_inputs(Tensor(shape=(None, None), dtype=ms.int32))

    def construct(self, token_ids: Tensor) -> Tensor:
        """Encode token_ids (B, L) int32 as un-normalised features (B, D) float32."""
        return self.tower.encode_text(token_ids)


class ImageEncoder:
    """`encode_image` in pieces, which compile at first use."""

    def __init__(self, model: UNIReID):
        tower = model.base_model.visual
        blocks = list(tower.transformer.resblocks)[:-1]
        shared = len(blocks) - len(blocks) % _PIECE
        self.pieces = [blocks[i : i + _PIECE] for i in range(0, shared, _PIECE)]
        self.embed, self.piece, self.read = _Embed(tower), _Piece(blocks[0]), _Read(tower, blocks[shared:])

    def __call__(self, images: Tensor) -> Tensor:
        """Encode pictures as `VisionTransformer.embed` takes them; un-normalised features (B, D) float32."""
        x = self.embed(images)
        for blocks in self.pieces:
            x = self.piece(x, *(tensor for block in blocks for tensor in _parameters(block)))
        return self.read(x)


class _Embed(nn.Cell):
    """The tower up to its first block."""

    def __init__(self, tower: VisionTransformer):
        super().__init__(auto_prefix=False)
        self.tower = tower

    def construct(self, images: Tensor) -> Tensor:
        return self.tower.embed(images)


class _Piece(nn.Cell):
    """Applies several blocks whose parameters are inputs, so that one graph serves every group of blocks."""

    def __init__(self, block: ResidualAttentionBlock):
        super().__init__(auto_prefix=False)
        self.ln_1, self.in_proj, self.core = block.ln_1.normalize, block.attn.in_proj, block.attn.core
        self.out_proj = block.attn.out_proj.operation
        self.ln_2, self.c_fc, self.c_proj = block.ln_2.normalize, block.mlp.c_fc.operation, block.mlp.c_proj.operation

    def construct(self, x: Tensor, *given: Tensor) -> Tensor:
        """Map x (B, L, D) to the same shape; `given` holds the blocks' parameters as `_parameters` lists them."""
        batch, length, width = x.shape
        rows = x.reshape(-1, width)
        for i in range(0, len(given), 12):
            qkv = self.in_proj(self.ln_1(rows, *given[i : i + 2])[0], *given[i + 2 : i + 4])
            mixed = self.core(qkv.reshape(batch, length, 3 * width))[0]
            rows = rows + self.out_proj(mixed.reshape(-1, width), *given[i + 4 : i + 6])
            hidden = self.c_fc(self.ln_2(rows, *given[i + 6 : i + 8])[0], *given[i + 8 : i + 10])
            rows = rows + self.c_proj(hidden, *given[i + 10 : i + 12])
        return rows.reshape(x.shape)


class _Read(nn.Cell):
    """The remaining blocks, and the tower after them."""

    def __init__(self, tower: VisionTransformer, blocks: list[ResidualAttentionBlock]):
        super().__init__(auto_prefix=False)
        self.tower, self.blocks = tower, nn.CellList(blocks, auto_prefix=False)

    def construct(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.tower.pool(self.tower.pick.first(x), x)


def _parameters(block: ResidualAttentionBlock) -> list[Tensor]:
    """List a block's parameters as tensors of the same memory: a graph is compiled anew for other Parameter objects."""
    attn = block.attn
    found = [block.ln_1.weight, block.ln_1.bias, attn.in_proj_weight, attn.in_proj_bias]
    for cell in (attn.out_proj, block.ln_2, block.mlp.c_fc, block.mlp.c_proj):
        found += [cell.weight, cell.bias]
    return [Tensor(parameter) for parameter in found]
