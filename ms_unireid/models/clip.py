"""The CLIP dual encoder without its logit scale."""

import numpy as np
from mindspore import Tensor, nn, ops

from ms_unireid.config import ModelConfig
from ms_unireid.config_schema import ARCHITECTURES, VOCABULARY_SIZE
from ms_unireid.models.ops import Product
from ms_unireid.models.transformer import LayerNorm, Transformer, normal_parameter
from ms_unireid.models.vision import VisionTransformer


class TokenEmbedding(nn.Cell):
    """A table of token vectors under CLIP's name, `token_embedding.weight`."""

    def __init__(self, width: int, rng: np.random.Generator):
        super().__init__()
        self.weight = normal_parameter(rng, (VOCABULARY_SIZE, width), 0.02)

    def construct(self, token_ids: Tensor) -> Tensor:
        """Look up token_ids (B, L) int32 as (B, L, D)."""
        return ops.gather(self.weight, token_ids, 0)


class CLIP(nn.Cell):
    """One visual and one text tower that end in the same feature space."""

    def __init__(self, config: ModelConfig, rng: np.random.Generator):
        super().__init__()
        size, context_length = ARCHITECTURES[config.architecture], config.context_length
        width = size.text.width
        self.visual = VisionTransformer(config, rng)
        causal = np.triu(np.full((context_length, context_length), -np.inf, np.float32), 1)
        self.transformer = Transformer(size.text, config.activation, rng, Tensor(causal))
        self.token_embedding = TokenEmbedding(width, rng)
        self.positional_embedding = normal_parameter(rng, (context_length, width), 0.01)
        self.ln_final = LayerNorm(width)
        self.text_projection = normal_parameter(rng, (width, size.embed_dim), width**-0.5)
        self.product = Product()
        self.argmax = ops.Argmax(-1)

    def encode_image(self, images: Tensor) -> Tensor:
        """Encode photos or sketches (B, 3, H, W) float32 as un-normalised features (B, D)."""
        return self.visual(images)

    def encode_text(self, token_ids: Tensor) -> Tensor:
        """Encode token_ids (B, L) int32 as un-normalised features (B, D).

        The feature is read at the end-of-text token, whose id is the largest; padding behind it is hidden from it
        by causality alone, so that L may be anything from the longest caption up to the context length.
        """
        return self.read(self.transformer(self.embed(token_ids)), token_ids)

    def embed(self, token_ids: Tensor) -> Tensor:
        """Make the text tower's first block's input of token_ids (B, L) int32: (B, L, width)."""
        return self.token_embedding(token_ids) + self.positional_embedding[: token_ids.shape[1]]

    def end(self, token_ids: Tensor) -> Tensor:
        """Find the end-of-text token of token_ids (B, L) int32, whose id is the largest: (B,) int32."""
        return self.argmax(token_ids.astype("float32"))

    def read(self, x: Tensor, token_ids: Tensor) -> Tensor:
        """Turn the last block's input for token_ids (B, L), (B, L, width), into features (B, D)."""
        batch, length = token_ids.shape
        place = self.end(token_ids)
        rows = ops.arange(0, batch * length, length) + place
        return self.read_from(ops.gather(x.reshape(batch * length, -1), rows, 0), x, place)

    def read_from(self, token: Tensor, x: Tensor, place: Tensor) -> Tensor:
        """`read` with the end-of-text tokens, (B, width), already taken out at `place` (B,) int32."""
        return self.product(self.ln_final(self.transformer.read(token, x, place)), self.text_projection)
