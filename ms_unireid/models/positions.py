"""Patch grids, and the resizing of position tables (CLIP's `positional_embedding`), in numpy."""

import math

import numpy as np

from ms_unireid.config import ModelConfig

_KEPT = 20  # rows of a caption's table
LEAST_ROWS = _KEPT + 2  # of a caption's table that can be stretched


def patch_grid(image_size: tuple[int, int], patch_size: int, stride: int) -> tuple[int, int]:
    """Return rows and columns of patches of an image (height, width); pixels that fill no patch are left out."""
    height, width = image_size
    return (height - patch_size) // stride + 1, (width - patch_size) // stride + 1


def model_grid(model: ModelConfig) -> tuple[int, int]:
    """Return rows and columns of patches of a model's pictures."""
    return patch_grid(model.image_size, model.sizes.patch_size, model.patch_stride)


def resize_positions(
    table: np.ndarray, target_grid: tuple[int, int], source_grid: tuple[int, int] | None = None
) -> np.ndarray:
    """Resample a visual position table (1 + rows * columns, D), the class token's row first, to another patch grid.

    Bilinear with half-pixel centres and no antialiasing, as the authors do; the class row is kept, and so are all
    values if the grids are equal. Without `source_grid` the table's is square; ValueError if its rows do not fit it.
    """
    patches = len(table) - 1
    if source_grid is None:
        source_grid = (math.isqrt(patches), math.isqrt(patches))
    if source_grid[0] * source_grid[1] != patches:
        raise ValueError(f"a position table of {patches} patches does not fit a grid of {source_grid}")
    if source_grid == tuple(target_grid):
        return table
    grid = table[1:].reshape(*source_grid, -1).astype(np.float64)
    for axis in (0, 1):
        grid = _resample(grid, axis, target_grid[axis])
    return np.concatenate([table[:1], grid.reshape(-1, table.shape[1]).astype(table.dtype)])


def stretch_positions(table: np.ndarray, length: int) -> np.ndarray:
    """Stretch a caption's position table (rows, D), at least `LEAST_ROWS`, to `length` rows, no fewer.

    The first 20 rows, the best trained ones, stay, and those behind them are interpolated: the knowledge-preserved
    stretching of Long-CLIP (Zhang et al., ECCV 2024), which makes 248 rows of 77. As in its code, what comes behind the
    table's last row continues the line of the last two.
    """
    if length == len(table):
        return table
    places = _KEPT + np.arange(length - _KEPT) * ((len(table) - _KEPT) / (length - _KEPT))
    low = np.minimum(places.astype(int), len(table) - 2)
    rows, share = table.astype(np.float64), (places - low)[:, None]
    stretched = rows[low] * (1 - share) + rows[low + 1] * share
    return np.concatenate([table[:_KEPT], stretched.astype(table.dtype)])


def _resample(grid: np.ndarray, axis: int, size: int) -> np.ndarray:
    source = grid.shape[axis]
    centres = np.clip((np.arange(size) + 0.5) * source / size - 0.5, 0, source - 1)
    low = np.floor(centres).astype(int)
    high = np.minimum(low + 1, source - 1)
    share = (centres - low).reshape([-1 if a == axis else 1 for a in range(grid.ndim)])
    return np.take(grid, low, axis) * (1 - share) + np.take(grid, high, axis) * share
