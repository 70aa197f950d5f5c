"""The baseline: UNIReID in plain PyTorch, with CLIP's parameter names."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ms_unireid.config import Config, ModelConfig
from ms_unireid.config_schema import TowerSize
from ms_unireid.models.positions import model_grid


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        """Map x to the same shape."""
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """One pre-LayerNorm block on tokens (L, B, D), as in CLIP."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        layers = {"c_fc": nn.Linear(width, 4 * width), "gelu": QuickGELU(), "c_proj": nn.Linear(4 * width, width)}
        self.mlp = nn.Sequential()
        for name, layer in layers.items():
            self.mlp.add_module(name, layer)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map x to the same shape."""
        normal = self.ln_1(x)
        x = x + self.attn(normal, normal, normal, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """A stack of blocks."""

    def __init__(self, size: TowerSize):
        super().__init__()
        self.resblocks = nn.ModuleList(Block(size.width, size.heads) for _ in range(size.layers))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map x (B, L, D) to the same shape."""
        x = x.permute(1, 0, 2)
        for block in self.resblocks:
            x = block(x, mask)
        return x.permute(1, 0, 2)


class VisionTransformer(nn.Module):
    """CLIP's visual tower; the features are those of the class token."""

    def __init__(self, model: ModelConfig):
        super().__init__()
        size, (rows, columns) = model.sizes, model_grid(model)
        width = size.vision.width
        self.conv1 = nn.Conv2d(3, width, size.patch_size, model.patch_stride, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width) * width**-0.5)
        self.positional_embedding = nn.Parameter(torch.randn(rows * columns + 1, width) * width**-0.5)
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = Transformer(size.vision)
        self.proj = nn.Parameter(torch.randn(width, size.embed_dim) * width**-0.5)

    def forward(self, images: Tensor) -> Tensor:
        """Encode pictures (B, 3, H, W) as features (B, D)."""
        x = self.conv1(images).flatten(2).permute(0, 2, 1)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x))[:, 0]) @ self.proj


class CLIP(nn.Module):
    """Both towers."""

    def __init__(self, model: ModelConfig):
        super().__init__()
        size, length = model.sizes, model.context_length
        width = size.text.width
        self.visual, self.transformer = VisionTransformer(model), Transformer(size.text)
        self.token_embedding = nn.Embedding(size.vocabulary_size, width)
        self.positional_embedding = nn.Parameter(torch.randn(length, width) * 0.01)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, size.embed_dim) * width**-0.5)
        self.register_buffer("mask", torch.full((length, length), -math.inf).triu(1), persistent=False)

    def encode_text(self, token_ids: Tensor) -> Tensor:
        """Encode captions (B, L) as features (B, D)."""
        x = self.ln_final(self.transformer(self.token_embedding(token_ids) + self.positional_embedding, self.mask))
        return x[torch.arange(len(x)), token_ids.argmax(-1)] @ self.text_projection


class UNIReID(nn.Module):
    """The dual encoder and its full objective, Eq. 3 to 10 of the paper."""

    def __init__(self, config: Config):
        super().__init__()
        self.base_model = CLIP(config.model)
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(config.model.temperature)))
        self.settings = config.objective

    def forward(self, images: Tensor, sketches: Tensor, token_ids: Tensor) -> Tensor:
        """Return a batch's loss."""
        visual = self.base_model.visual
        image, sketch, text = visual(images), visual(sketches), self.base_model.encode_text(token_ids)
        scale, image = self.logit_scale.exp(), F.normalize(image)
        by_text, by_sketch, by_both = (scale * F.normalize(query) @ image.T for query in (text, sketch, sketch + text))
        text_loss, sketch_loss = _pair_loss(by_text), _pair_loss(by_sketch)
        loss = _pair_loss(by_both).mean()
        for own, other in ((text_loss, sketch_loss), (sketch_loss, text_loss)):
            loss = loss + self._modulated(own, other).mean()
        target = by_text.detach().softmax(-1)
        return loss + self.settings.interaction_weight * F.cross_entropy(by_sketch, target)

    def _modulated(self, own: Tensor, other: Tensor) -> Tensor:
        p, q, eps = torch.exp(-own), torch.exp(-other), 1e-9
        weight = (q + eps) * (2 * p * q / (p + q + eps))
        return self.settings.alpha * (1 + weight) ** self.settings.gamma * own


def _pair_loss(logits: Tensor) -> Tensor:
    own = torch.arange(len(logits))
    rows, columns = (F.cross_entropy(side, own, reduction="none") for side in (logits, logits.T))
    return (rows + columns) / 2


def make_optimizer(model: nn.Module, config: Config) -> torch.optim.Adam:
    """Build Adam with a separate parameter group for biases."""
    train = config.train
    named = list(model.named_parameters())
    groups = [
        {
            "params": [p for name, p in named if ("bias" in name) == bias],
            "lr": train.learning_rate * (train.bias_lr_factor if bias else 1),
            "weight_decay": train.bias_weight_decay if bias else train.weight_decay,
        }
        for bias in (False, True)
    ]
    return torch.optim.Adam(groups, betas=(train.beta1, train.beta2), eps=train.eps)


def to_torch(arrays: tuple[np.ndarray, ...]) -> list[Tensor]:
    """Convert a batch to tensors, int32 to int64."""
    return [torch.from_numpy(a.astype(np.int64) if a.dtype == np.int32 else a) for a in arrays]
