"""UNIReID: one CLIP dual encoder for text, sketch and text+sketch queries."""

import math

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from ms_unireid.config import ModelConfig
from ms_unireid.models.clip import CLIP


class UNIReID(nn.Cell):
    """Shared visual tower, text tower, summation fusion and a logit scale of its own (Section 4.1).

    Args:
        config: Architecture, image size and temperature.
        seed: Decides the initial weights.
    """

    def __init__(self, config: ModelConfig, seed: int = 1):
        super().__init__()
        self.base_model = CLIP(config, np.random.default_rng(seed))
        initial = Tensor(math.log(1 / config.temperature), ms.float32)
        self.logit_scale = Parameter(initial, requires_grad=config.learnable_temperature)

    def encode_image(self, images: Tensor) -> Tensor:
        """Encode photos or sketches (B, 3, H, W) float32 as un-normalised features (B, D) float32."""
        return self.base_model.encode_image(images)

    def encode_text(self, token_ids: Tensor) -> Tensor:
        """Encode captions, token_ids (B, L) int32, as un-normalised features (B, D) float32."""
        return self.base_model.encode_text(token_ids)

    def fuse(self, sketch_feats: Tensor, text_feats: Tensor) -> Tensor:
        """Add un-normalised sketch and text features (B, D): F[CLS] = V_s[IMG] + T[CLS], Section 4.1."""
        return sketch_feats + text_feats

    def recompute_blocks(self) -> None:
        """Keep no activations of the transformer blocks for the backward pass, but compute them again there."""
        for transformer in (self.base_model.visual.transformer, self.base_model.transformer):
            for block in transformer.resblocks:
                block.recompute()

    def construct(self, images: Tensor, sketches: Tensor, token_ids: Tensor) -> tuple[Tensor, ...]:
        """Encode a batch of photos, sketches (B, 3, H, W) and captions (B, L).

        Returns:
            Image, sketch, text and fused features, each (B, D) and un-normalised, and exp(logit_scale), a scalar.
        """
        visual = self.encode_image(ops.concat((images, sketches), 0))
        image_feats, sketch_feats = ops.split(visual, images.shape[0], 0)
        text_feats = self.encode_text(token_ids)
        fused = self.fuse(sketch_feats, text_feats)
        return image_feats, sketch_feats, text_feats, fused, ops.exp(self.logit_scale)


def build_model(config: ModelConfig, seed: int = 1) -> UNIReID:
    """Build a UNIReID with weights drawn from `seed`; `load_checkpoint` fills in trained ones."""
    return UNIReID(config, seed)
