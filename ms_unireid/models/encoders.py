"""The towers compiled for encoding: the same features as the model's, with less compilation.

The visual tower runs in pieces. The text tower is one graph for captions of any length; in pieces it would be an eighth
slower. Ascend and GPU take captions of few lengths instead, a graph for each, since they are slow with shapes that are
open.
"""

from collections.abc import Sequence

import mindspore as ms
from mindspore import Tensor, nn

from ms_unireid.config_schema import CONTEXT_LENGTH
from ms_unireid.models.pieces import Blocks, tensors_of
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
        self.pieces, rest = [blocks[i : i + _PIECE] for i in range(0, shared, _PIECE)], blocks[shared:]
        self.embed, self.piece, self.read = _Embed(tower), Blocks(tower.transformer.resblocks[0]), _Read(tower, rest)

    def __call__(self, images: Tensor) -> Tensor:
        """Encode pictures as `VisionTransformer.embed` takes them; un-normalised features (B, D) float32."""
        x = self.embed(images)
        for blocks in self.pieces:
            x = self.piece(x, *tensors_of(blocks))
        return self.read(x)


class _Embed(nn.Cell):
    """The tower up to its first block."""

    def __init__(self, tower: VisionTransformer):
        super().__init__(auto_prefix=False)
        self.tower = tower

    def construct(self, images: Tensor) -> Tensor:
        return self.tower.embed(images)


class _Read(nn.Cell):
    """The remaining blocks, and the tower after them."""

    def __init__(self, tower: VisionTransformer, blocks: list[ResidualAttentionBlock]):
        super().__init__(auto_prefix=False)
        self.tower, self.blocks = tower, nn.CellList(blocks, auto_prefix=False)

    def construct(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.tower.read(x)
