"""The UNIReID dual encoder in PyTorch, built from torch's own layers under the checkpoint's parameter names.

Holds the network, a seeded random initialisation, random inputs and the position-table resize. Losses live in
`reference.losses`.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

VIT_B_16 = {
    "vision_width": 768,
    "vision_layers": 12,
    "vision_heads": 12,
    "patch_size": 16,
    "stride": 16,
    "image_size": (384, 128),
    "text_width": 512,
    "text_layers": 12,
    "text_heads": 8,
    "context_length": 77,
    "vocab_size": 49408,
    "embed_dim": 512,
    "temperature": 0.07,
}

# Every width differs from the others, so that a transposed or swapped tensor cannot fit by accident.
TINY = {
    "vision_width": 48,
    "vision_layers": 2,
    "vision_heads": 3,
    "patch_size": 8,
    "stride": 8,
    "image_size": (32, 16),
    "text_width": 32,
    "text_layers": 2,
    "text_heads": 2,
    "context_length": 12,
    "vocab_size": 100,
    "embed_dim": 40,
    "temperature": 0.07,
}


class QuickGELU(nn.Module):
    """The activation x * sigmoid(1.702 x)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the activation elementwise; the shape is kept."""
        return x * torch.sigmoid(1.702 * x)


class ResidualBlock(nn.Module):
    """A pre-LN transformer block on sequence-first tokens."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1 = nn.LayerNorm(width, eps=1e-5)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", QuickGELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))
        self.ln_2 = nn.LayerNorm(width, eps=1e-5)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Map tokens (L, B, D) to (L, B, D); `mask` (L, L) is added to the attention logits."""
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """A stack of residual blocks."""

    def __init__(self, width: int, layers: int, heads: int):
        super().__init__()
        self.resblocks = nn.ModuleList([ResidualBlock(width, heads) for _ in range(layers)])

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Map batch-first tokens (B, L, D) to (B, L, D)."""
        x = x.transpose(0, 1)
        for block in self.resblocks:
            x = block(x, mask)
        return x.transpose(0, 1)


class VisualTower(nn.Module):
    """The vision transformer shared by photos and sketches."""

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        patch_size: int,
        stride: int,
        image_size: tuple[int, int],
        embed_dim: int,
    ):
        super().__init__()
        rows, columns = ((side - patch_size) // stride + 1 for side in image_size)
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch_size, stride=stride, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(1 + rows * columns, width))
        self.ln_pre = nn.LayerNorm(width, eps=1e-5)
        self.transformer = Transformer(width, layers, heads)
        self.ln_post = nn.LayerNorm(width, eps=1e-5)
        self.proj = nn.Parameter(torch.zeros(width, embed_dim))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Encode pictures (B, 3, H, W) into projected tokens (B, 1 + patches, D)."""
        patches = self.conv1(images).flatten(2).transpose(1, 2)  # (B, width, rows, columns) -> (B, patches, width)
        first = self.class_embedding.expand(len(images), 1, -1)
        x = torch.cat([first, patches], dim=1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x))) @ self.proj


class DualEncoder(nn.Module):
    """CLIP's two towers without CLIP's own logit scale."""

    def __init__(
        self,
        visual: VisualTower,
        text_width: int,
        text_layers: int,
        text_heads: int,
        context_length: int,
        vocab_size: int,
        embed_dim: int,
    ):
        super().__init__()
        self.visual = visual
        self.transformer = Transformer(text_width, text_layers, text_heads)
        self.token_embedding = nn.Embedding(vocab_size, text_width)
        self.positional_embedding = nn.Parameter(torch.zeros(context_length, text_width))
        self.ln_final = nn.LayerNorm(text_width, eps=1e-5)
        self.text_projection = nn.Parameter(torch.zeros(text_width, embed_dim))

    def text_tokens(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Encode ids (B, L) into projected tokens (B, L, D) under a causal mask; padding is not masked."""
        x = self.token_embedding(token_ids) + self.positional_embedding
        length = token_ids.shape[1]
        mask = torch.full((length, length), float("-inf"), dtype=x.dtype, device=x.device).triu(1)
        return self.ln_final(self.transformer(x, mask)) @ self.text_projection


class UNIReID(nn.Module):
    """UNIReID with additive fusion and a learned logit scale, initialised to ln(1 / temperature).

    Args:
        vision_width: Width of the visual tower.
        vision_layers: Number of its blocks.
        vision_heads: Number of its attention heads.
        patch_size: Side of a square patch, in pixels.
        stride: Step between patches, in pixels.
        image_size: (height, width) in pixels.
        text_width: Width of the text tower.
        text_layers: Number of its blocks.
        text_heads: Number of its attention heads.
        context_length: Number of token ids of a caption.
        vocab_size: Number of token ids that exist.
        embed_dim: Size D of the common feature space.
        temperature: Initial softmax temperature.
    """

    def __init__(
        self,
        vision_width: int,
        vision_layers: int,
        vision_heads: int,
        patch_size: int,
        stride: int,
        image_size: tuple[int, int],
        text_width: int,
        text_layers: int,
        text_heads: int,
        context_length: int,
        vocab_size: int,
        embed_dim: int,
        temperature: float = 0.07,
    ):
        super().__init__()
        visual = VisualTower(vision_width, vision_layers, vision_heads, patch_size, stride, image_size, embed_dim)
        self.base_model = DualEncoder(
            visual, text_width, text_layers, text_heads, context_length, vocab_size, embed_dim
        )
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1.0 / temperature)))

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """Return the un-normalised class-token feats (B, D) of pictures (B, 3, H, W)."""
        return self.base_model.visual(images)[:, 0]

    def encode_text(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Return the un-normalised feats (B, D) at the largest id (the end token, first on ties) of ids (B, L)."""
        tokens = self.base_model.text_tokens(token_ids)
        ends = [ids.index(max(ids)) for ids in token_ids.tolist()]
        return torch.stack([tokens[row, end] for row, end in enumerate(ends)])

    def fuse(self, text: torch.Tensor, sketch: torch.Tensor) -> torch.Tensor:
        """Return the sum (B, D) of un-normalised text and sketch feats (B, D)."""
        return text + sketch

    def forward(self, images: torch.Tensor, sketches: torch.Tensor, token_ids: torch.Tensor) -> tuple:
        """Encode a batch.

        Args:
            images: Photos (B, 3, H, W).
            sketches: Sketches (B, 3, H, W), row by row of the same persons.
            token_ids: Caption ids (B, L), integer.

        Returns:
            (image, sketch, text, fused, scale): four un-normalised feats (B, D) and the scalar exp(logit_scale).
        """
        image, sketch, text = self.encode_image(images), self.encode_image(sketches), self.encode_text(token_ids)
        return image, sketch, text, self.fuse(text, sketch), self.logit_scale.exp()


def _random_like(name: str, parameter: torch.Tensor) -> torch.Tensor:
    """Draw a value for one parameter: unit-gain matrices, clearly non-zero biases, LN weights away from one."""
    noise = torch.randn(parameter.shape)
    if name.endswith("bias"):
        return 0.1 * noise
    if ".ln_" in name:
        return 0.6 + 0.8 * torch.rand(parameter.shape)
    if "embedding" in name:
        return (1.0 if "token" in name else 0.3) * noise
    if name.endswith(("visual.proj", "text_projection")):
        return noise / math.sqrt(parameter.shape[0])
    return noise / math.sqrt(parameter[0].numel())


def random_model(seed: int, **dims) -> UNIReID:
    """Build a float32 model in which no parameter is zero, one or shared, so that a dropped or swapped one shows.

    Args:
        seed: Seed of torch's global generator.
        **dims: Constructor arguments that differ from `TINY`.

    Returns:
        The model, with `logit_scale` = ln(1 / temperature).
    """
    torch.manual_seed(seed)
    model = UNIReID(**{**TINY, **dims})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "logit_scale":
                parameter.copy_(_random_like(name, parameter))
    return model


def random_batch(seed: int, batch: int, **dims) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw inputs that suit `random_model(..., **dims)`.

    Args:
        seed: Seed of a separate generator.
        batch: Number of rows B.
        **dims: Constructor arguments that differ from `TINY`.

    Returns:
        (images, sketches, token_ids): two float32 (B, 3, H, W) and int64 (B, L); ids start with vocab_size - 2, hold
        3 to L tokens, end with vocab_size - 1 and are padded with 0.
    """
    dims = {**TINY, **dims}
    generator = torch.Generator().manual_seed(seed)
    images, sketches = torch.randn(2, batch, 3, *dims["image_size"], generator=generator)
    length, vocab = dims["context_length"], dims["vocab_size"]
    token_ids = torch.randint(1, vocab - 2, (batch, length), generator=generator)
    ends = torch.randint(2, length, (batch,), generator=generator)
    for row, end in zip(token_ids, ends.tolist(), strict=True):
        row[0], row[end], row[end + 1 :] = vocab - 2, vocab - 1, 0
    return images, sketches, token_ids


def resize_position_table(table: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Resize a pretrained square position table to another grid of patches.

    Args:
        table: Class row followed by n * n patch rows, (1 + n * n, D).
        grid: (rows, columns) wanted.

    Returns:
        Table (1 + rows * columns, D): class row kept, the others resized bilinearly (half-pixel centres, no
        antialiasing) and flattened row-major.
    """
    side = math.isqrt(len(table) - 1)
    square = table[1:].T.reshape(1, -1, side, side)
    resized = F.interpolate(square, size=grid, mode="bilinear", align_corners=False)
    return torch.cat([table[:1], resized.flatten(2)[0].T])
