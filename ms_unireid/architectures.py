"""The named dual-encoder architectures: sizes only."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TowerSize:
    """Width, depth and heads of one transformer tower."""

    width: int
    layers: int
    heads: int


@dataclass(frozen=True)
class Architecture:
    """Sizes of a CLIP dual encoder; the image size and stride come from the config.

    Attributes:
        vision: The tower that photos and sketches share.
        text: The caption tower.
        patch_size: Side of a square image patch, in pixels.
        embed_dim: Width D of the joint feature space.
    """

    vision: TowerSize
    text: TowerSize
    patch_size: int
    embed_dim: int


# Tokens of CLIP's vocabulary.
VOCABULARY_SIZE = 49408

ARCHITECTURES = {
    "ViT-B/16": Architecture(TowerSize(768, 12, 12), TowerSize(512, 12, 8), patch_size=16, embed_dim=512),
    "ViT-B/32": Architecture(TowerSize(768, 12, 12), TowerSize(512, 12, 8), patch_size=32, embed_dim=512),
    "ViT-L/14": Architecture(TowerSize(1024, 24, 16), TowerSize(768, 12, 12), patch_size=14, embed_dim=768),
    # Not CLIP's: sizes that train from scratch on a laptop, and in a test.
    "small": Architecture(TowerSize(128, 4, 4), TowerSize(128, 4, 4), patch_size=8, embed_dim=128),
    "tiny": Architecture(TowerSize(64, 2, 2), TowerSize(48, 2, 3), patch_size=8, embed_dim=32),
}
