"""UNIReID: one CLIP dual encoder for text, sketch and text+sketch queries."""

import math

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from ms_unireid.config import ModelConfig, RuntimeConfig
from ms_unireid.models.clip import CLIP
from ms_unireid.models.forms import Operations
from ms_unireid.models.ops import Pick
from ms_unireid.models.self_check import checked_operations


class UNIReID(nn.Cell):
    """Shared visual tower, text tower, fusion by addition, and logit scale (Section 4.1).

    `seed` decides the initial weights, as in `build_model`; without `operations` they are plain float32.
    """

    def __init__(self, config: ModelConfig, seed: int | None = 1, operations: Operations | None = None):
        super().__init__()
        self.operations = operations or Operations()
        self.pick = self.operations.make(Pick)
        self.base_model = CLIP(config, None if seed is None else np.random.default_rng(seed), self.operations)
        initial = Tensor(math.log(1 / config.temperature), ms.float32)
        self.logit_scale = Parameter(initial, requires_grad=config.learnable_temperature)

    def encode_image(self, images: Tensor) -> Tensor:
        """Encode photos or sketches (B, 3, H, W) float32 as un-normalised features (B, D) float32."""
        return self.base_model.encode_image(images)

    def encode_text(self, token_ids: Tensor) -> Tensor:
        """Encode captions, token_ids (B, L) int32, as un-normalised features (B, D) float32."""
        return self.base_model.encode_text(token_ids)

    def fuse(self, *feats: Tensor) -> Tensor:
        """Add un-normalised features (B, D) of several modalities: F[CLS] = V_s[IMG] + T[CLS], Section 4.1."""
        fused = feats[0]
        for one in feats[1:]:
            fused = fused + one
        return fused

    def construct(self, images: Tensor, sketches: Tensor, token_ids: Tensor) -> tuple[Tensor, ...]:
        """Encode a batch of photos, sketches (B, 3, H, W) and captions (B, L).

        Returns:
            Image, sketch, text and fused features, each (B, D) and un-normalised, and exp(logit_scale), a scalar.
        """
        visual = self.encode_image(ops.concat((images, sketches), 0))
        image_feats, sketch_feats = self.pick.parts(visual, 2)
        text_feats = self.encode_text(token_ids)
        fused = self.fuse(sketch_feats, text_feats)
        return image_feats, sketch_feats, text_feats, fused, ops.exp(self.logit_scale)


def build_model(config: ModelConfig, seed: int | None = 1, runtime: RuntimeConfig | None = None) -> UNIReID:
    """Build a UNIReID; `seed` decides the initial weights, and `load_checkpoint` fills in trained ones.

    Without a seed all are to be filled in: to draw the 150 million weights of a ViT-B/16 takes seconds.

    `runtime`, by default a `RuntimeConfig()`, chooses form and precision of the operations, see `checked_operations`.
    """
    return UNIReID(config, seed, checked_operations(runtime or RuntimeConfig()))
