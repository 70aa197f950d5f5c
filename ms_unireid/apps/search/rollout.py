"""Attention rollout of the visual tower (Abnar and Zuidema, "Quantifying Attention Flow in Transformers")."""

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from ms_unireid.models.transformer import Attention, ResidualAttentionBlock
from ms_unireid.models.vision import VisionTransformer


def attention_rollout(visual: VisionTransformer, images: Tensor) -> np.ndarray:
    """Compute how much of the class token comes from each patch, through all blocks.

    Each block's attention, averaged over its heads, counts half and the residual connection half; the blocks' matrices
    are multiplied. Runs uncompiled, for pictures to look at, (B, 3, H, W) float32. Returns one value per patch, (B,
    rows, columns) float32; the values of a picture add up to 1.
    """
    before = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        x = visual.embed(images)
        flow = np.eye(x.shape[1], dtype=np.float32)
        *blocks, last = visual.transformer.resblocks
        for block in blocks:
            flow = _through(block, x) @ flow
            x = block(x)
        flow = _through(last, x) @ flow
    finally:
        ms.set_context(mode=before)
    patches = flow[:, 0, 1:]
    return (patches / patches.sum(axis=1, keepdims=True)).reshape(-1, *visual.conv1.grid)


def _through(block: ResidualAttentionBlock, x: Tensor) -> np.ndarray:
    """Return the share of each input token in each output token of a block, (B, L, L), for input x (B, L, D)."""
    return (_attention(block.attn, block.ln_1(x)).mean(axis=1) + np.eye(x.shape[1], dtype=np.float32)) / 2


def _attention(layer: Attention, x: Tensor) -> np.ndarray:
    """Return what each token of x (B, L, D) attends to, (B, heads, L, L)."""
    batch, length, width = x.shape
    rows = 2 * width  # queries and keys
    weight, bias = layer.in_proj_weight[:rows], layer.in_proj_bias[:rows]
    both = ops.matmul(x.reshape(-1, width), weight.T) + bias
    q, k = (
        part.reshape(batch, length, layer.core.heads, -1).transpose(0, 2, 1, 3) for part in ops.split(both, width, -1)
    )
    scores = ops.matmul(q * q.shape[-1] ** -0.5, k.transpose(0, 1, 3, 2))
    return ops.softmax(scores, -1).asnumpy()
