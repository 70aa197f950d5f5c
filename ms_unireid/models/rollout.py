"""Where the visual tower looks: attention rollout (Abnar and Zuidema, "Quantifying Attention Flow in Transformers")."""

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from ms_unireid.models.transformer import Attention
from ms_unireid.models.vision import VisionTransformer


def attention_rollout(visual: VisionTransformer, images: Tensor) -> np.ndarray:
    """Follow attention from the class token back to the patches, through all blocks.

    Each block's attention, averaged over its heads, counts half and the residual connection half; the blocks' matrices
    are multiplied. Runs uncompiled, for pictures to look at.

    Args:
        visual: The visual tower.
        images: (B, 3, H, W) float32.

    Returns:
        (B, rows, columns) float32, one value a patch, each picture's adding up to 1.
    """
    before = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        x = visual.embed(images)
        flow = np.eye(x.shape[1], dtype=np.float32)
        for block in visual.transformer.resblocks:
            attention = _attention(block.attn, block.ln_1(x)).mean(axis=1)
            flow = (attention + np.eye(x.shape[1], dtype=np.float32)) / 2 @ flow
            x = block(x, None)
    finally:
        ms.set_context(mode=before)
    patches = flow[:, 0, 1:]
    return (patches / patches.sum(axis=1, keepdims=True)).reshape(-1, *visual.conv1.grid)


def _attention(layer: Attention, x: Tensor) -> np.ndarray:
    """Return what each token of x (B, L, D) attends to, (B, heads, L, L)."""
    batch, length, width = x.shape
    rows = 2 * width  # queries and keys
    weight, bias = layer.in_proj_weight[:rows], layer.in_proj_bias[:rows]
    both = ops.matmul(x.reshape(-1, width), weight.T) + bias
    q, k = (part.reshape(batch, length, layer.heads, -1).transpose(0, 2, 1, 3) for part in ops.split(both, width, -1))
    scores = ops.matmul(q * layer.scale, k.transpose(0, 1, 3, 2))
    return ops.softmax(scores, -1).asnumpy()
