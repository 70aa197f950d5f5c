"""The CLIP dual encoder without its logit scale."""

import numpy as np
from mindspore import Tensor, nn

from ms_unireid.config import ModelConfig
from ms_unireid.models.forms import Operations
from ms_unireid.models.ops import Pick
from ms_unireid.models.transformer import LayerNorm, Transformer, normal_parameter
from ms_unireid.models.vision import VisionTransformer


class TokenEmbedding(nn.Cell):
    """A table of token vectors under CLIP's name, `token_embedding.weight`."""

    def __init__(self, words: int, width: int, rng: np.random.Generator | None, operations: Operations):
        super().__init__()
        self.pick = operations.make(Pick)
        self.weight = normal_parameter(rng, (words, width), 0.02)

    def construct(self, token_ids: Tensor) -> Tensor:
        """Look up token_ids (B, L) int32 as (B, L, D)."""
        return self.pick(self.weight, token_ids)


class CLIP(nn.Cell):
    """One visual and one text tower with a joint feature space."""

    def __init__(self, config: ModelConfig, rng: np.random.Generator | None, operations: Operations):
        super().__init__()
        size, context_length = config.sizes, config.context_length
        width = size.text.width
        self.visual = VisionTransformer(config, rng, operations)
        causal = np.triu(np.full((context_length, context_length), -np.inf, np.float32), 1)
        self.transformer = Transformer(size.text, config.activation, rng, operations, Tensor(causal))
        self.token_embedding = TokenEmbedding(size.vocabulary_size, width, rng, operations)
        self.positional_embedding = normal_parameter(rng, (context_length, width), 0.01)
        self.ln_final = LayerNorm(width, operations)
        self.text_projection = normal_parameter(rng, (width, size.embed_dim), width**-0.5)
        self.product, self.pick = operations.matmul(), operations.make(Pick)

    def encode_image(self, images: Tensor) -> Tensor:
        """Encode photos or sketches (B, 3, H, W) float32 as un-normalised features (B, D)."""
        return self.visual(images)

    def encode_text(self, token_ids: Tensor) -> Tensor:
        """Encode token_ids (B, L) int32 as un-normalised features (B, D).

        L is anything from the longest caption up to the context length: the feature is read at the end-of-text token,
        and causality hides the padding behind it.
        """
        return self.read(self.transformer(self.embed(token_ids)), token_ids)

    def read(self, x: Tensor, token_ids: Tensor) -> Tensor:
        """Turn the last block's input (B, L, width) for token_ids (B, L) into features (B, D)."""
        eot_index = self.eot_index(token_ids)
        return self.pool(self.pick.token(x, eot_index), x, eot_index)

    def embed(self, token_ids: Tensor) -> Tensor:
        """Embed token_ids (B, L) int32, with positions, as the input of the first block: (B, L, width)."""
        return self.token_embedding(token_ids) + self.pick.prefix(self.positional_embedding, token_ids.shape[1])

    def eot_index(self, token_ids: Tensor) -> Tensor:
        """Find the end-of-text token of token_ids (B, L) int32, whose id is the largest: (B,) int32."""
        return self.pick.largest(token_ids)

    def pool(self, token: Tensor, x: Tensor, eot_index: Tensor) -> Tensor:
        """Turn the last block's input x (B, L, width) into features (B, D).

        `token`, (B, width), are its end-of-text tokens, which are at `eot_index`, (B,) int32.
        """
        return self.product(self.ln_final(self.transformer.read_out(token, x, eot_index)), self.text_projection)
