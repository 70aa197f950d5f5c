"""The visual tower that photos and sketches share."""

import mindspore as ms
import numpy as np
from mindspore import Tensor, mint, nn, ops

from ms_unireid.config import ModelConfig
from ms_unireid.data.transforms import MEAN, STD, normalize
from ms_unireid.models.forms import Operations
from ms_unireid.models.ops import MatMul, Pick
from ms_unireid.models.positions import patch_grid
from ms_unireid.models.transformer import LayerNorm, Transformer, normal_parameter


def to_device(batch: np.ndarray | Tensor) -> Tensor:
    """Put pictures or token ids on the device as they are; on a CPU, pictures of uint8 are normalised before.

    There `NormalizedPixels` would keep some 90 bytes for every value, and take several times as long.
    """
    if isinstance(batch, Tensor):
        return batch
    on_cpu = ms.get_context("device_target") == "CPU"
    return Tensor(normalize(batch) if on_cpu and batch.dtype == np.uint8 else batch)


class NormalizedPixels(nn.Cell):
    """`normalize`, to the same bits, on the device; pictures of float32 stay as they are."""

    def __init__(self, operations: Operations):
        super().__init__()
        self.views = operations.form == "ascend"  # slices would take the old interface of its kernels
        self.mean, self.std = (Tensor(values.reshape(1, 3, 1, 1)) for values in (MEAN, STD))

    def construct(self, images: Tensor) -> Tensor:
        """Map uint8 (B, 3 or 4, H, W) to float32 (B, 3, H, W)."""
        if images.dtype != ms.uint8:
            return images
        if images.shape[1] == 3:
            return self._normalize(images)
        if self.views:
            colours, erased = mint.narrow(images, 1, 0, 3), mint.narrow(images, 1, 3, 1)
        else:
            colours, erased = images[:, :3], images[:, 3:]
        return ops.where(erased > 0, self.mean, self._normalize(colours))

    def _normalize(self, colours: Tensor) -> Tensor:
        return (colours.astype(ms.float32) / 255.0 - self.mean) / self.std


class PatchEmbedding(nn.Cell):
    """CLIP's `conv1` (no bias) for any stride, as one matrix product over the patches.

    On a CPU MindSpore 2.9 and 2.10 fall back to a reference convolution that is a hundred times slower.
    """

    def __init__(self, config: ModelConfig, rng: np.random.Generator | None, operations: Operations):
        super().__init__()
        image_size, patch_size, stride = config.image_size, config.sizes.patch_size, config.patch_stride
        self.patch_size = patch_size
        self.grid = patch_grid(image_size, patch_size, stride)
        shape = (config.sizes.vision.width, 3, patch_size, patch_size)
        self.weight = normal_parameter(rng, shape, (3 * patch_size**2) ** -0.5)
        self.product = MatMul(transpose_b=True, precision=operations.precision)
        starts = [np.arange(n) * stride for n in self.grid]
        self.rows, self.columns = (
            Tensor((s[:, None] + np.arange(patch_size)).reshape(-1).astype(np.int32)) for s in starts
        )
        # Patches that tile the image need no copy of their rows and columns.
        self.tiles = tuple(n * patch_size for n in self.grid) == tuple(image_size) and stride == patch_size

    def construct(self, images: Tensor) -> Tensor:
        """Embed images (B, 3, H, W) as (B, rows * columns, D), row by row."""
        if not self.tiles:
            images = ops.gather(ops.gather(images, self.rows, 2), self.columns, 3)
        batch, (rows, columns), p = images.shape[0], self.grid, self.patch_size
        patches = images.reshape(batch, 3, rows, p, columns, p).transpose(0, 2, 4, 1, 3, 5)
        weight = self.weight.reshape(self.weight.shape[0], -1)
        return self.product(patches.reshape(batch * rows * columns, -1), weight).reshape(batch, rows * columns, -1)


class VisionTransformer(nn.Cell):
    """CLIP's vision transformer, read out at the class token."""

    def __init__(self, config: ModelConfig, rng: np.random.Generator | None, operations: Operations):
        super().__init__()
        size = config.sizes
        width, std = size.vision.width, size.vision.width**-0.5
        self.normalized = NormalizedPixels(operations)
        self.conv1 = PatchEmbedding(config, rng, operations)
        rows, columns = self.conv1.grid
        self.class_embedding = normal_parameter(rng, (width,), std)
        self.positional_embedding = normal_parameter(rng, (rows * columns + 1, width), std)
        self.ln_pre = LayerNorm(width, operations)
        self.transformer = Transformer(size.vision, config.activation, rng, operations)
        self.ln_post = LayerNorm(width, operations)
        self.proj = normal_parameter(rng, (width, size.embed_dim), std)
        self.product, self.pick = operations.matmul(), operations.make(Pick)

    def construct(self, images: Tensor) -> Tensor:
        """Encode images as `embed` takes them as un-normalised features (B, D)."""
        return self.read(self.transformer(self.embed(images)))

    def embed(self, images: Tensor) -> Tensor:
        """Embed images as the first block's input: class token and patches, (B, 1 + patches, width).

        They are normalised, float32 (B, 3, H, W), or pixels, uint8 (B, 3 or 4, H, W) as `normalize` takes them.
        """
        patches = self.conv1(self.normalized(images))
        first = ops.tile(self.class_embedding.reshape(1, 1, -1), (images.shape[0], 1, 1))
        return self.ln_pre(ops.concat((first, patches), 1) + self.positional_embedding)

    def read(self, x: Tensor) -> Tensor:
        """Turn the last block's input (B, 1 + patches, width) into features (B, D)."""
        return self.pool(self.pick.first(x), x)

    def pool(self, token: Tensor, x: Tensor) -> Tensor:
        """Turn the last block's input (B, 1 + patches, width) and its class tokens (B, width) into features (B, D)."""
        return self.product(self.ln_post(self.transformer.read_out(token, x)), self.proj)
