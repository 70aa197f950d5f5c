"""Patch grids and resized position tables against torch's interpolation."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ms_unireid.models.positions import LEAST_ROWS, patch_grid, resize_positions, stretch_positions
from reference.model import resize_position_table


def table(rows, columns, width=5, seed=0):
    return np.random.default_rng(seed).standard_normal((1 + rows * columns, width)).astype(np.float32)


def interpolated(positions, source, target):
    """Torch's result in float64: its float32 coordinates alone cost 2e-6."""
    grid = torch.from_numpy(positions[1:].T.reshape(1, -1, *source)).double()
    resized = F.interpolate(grid, size=target, mode="bilinear", align_corners=False)
    return np.concatenate([positions[:1], resized[0].flatten(1).T.numpy()])


@pytest.mark.parametrize("target", [(24, 8), (7, 7), (14, 8), (3, 28), (1, 1), (28, 28), (13, 15)])
@pytest.mark.parametrize("source", [(14, 14), (24, 8), (1, 1), (5, 11)])
def test_equals_torch(source, target):
    positions = table(*source)
    found = resize_positions(positions, target, source)
    assert (found.shape, found.dtype) == ((1 + target[0] * target[1], 5), np.float32)
    np.testing.assert_allclose(found, interpolated(positions, source, target), rtol=0, atol=5e-7)
    np.testing.assert_array_equal(found[0], positions[0])


def test_square_is_assumed_as_in_the_reference():
    positions = table(14, 14, width=16)
    expected = resize_position_table(torch.from_numpy(positions).double(), (24, 8)).numpy()
    np.testing.assert_allclose(resize_positions(positions, (24, 8)), expected, rtol=0, atol=5e-7)


def test_equal_grids_keep_every_bit():
    positions = table(24, 8)
    np.testing.assert_array_equal(resize_positions(positions, (24, 8), (24, 8)), positions)
    np.testing.assert_array_equal(resize_positions(table(6, 6), (6, 6)), table(6, 6))


def test_equal_counts_on_another_grid_are_resampled():
    positions = table(4, 9)
    found = resize_positions(positions, (9, 4), (4, 9))
    np.testing.assert_allclose(found, interpolated(positions, (4, 9), (9, 4)), rtol=0, atol=5e-7)
    assert not np.allclose(found, positions, atol=0.1)


@pytest.mark.parametrize("source", [None, (5, 5), (2, 12)])
def test_a_table_that_does_not_fit_is_refused(source):
    with pytest.raises(ValueError, match="does not fit"):
        resize_positions(table(3, 7), (24, 8), source)


def long_clip(table):
    """Stretch 77 rows to 248 as the paper on Long-CLIP says: rows 0 to 19 stay, four for each that follows."""
    rows = list(table[:20].astype(np.float64))
    for i in range(20, 77):
        step = table[i + 1] - table[i].astype(np.float64) if i < 76 else table[76] - table[75].astype(np.float64)
        rows += [table[i] + part / 4 * step for part in range(4)]
    return np.array(rows)


def test_77_rows_become_long_clips_248():
    before = table(4, 19)
    found = stretch_positions(before, 248)
    assert (found.shape, found.dtype) == ((248, 5), np.float32)
    np.testing.assert_allclose(found, long_clip(before), rtol=0, atol=5e-7)
    assert found[:20].tobytes() == before[:20].tobytes()
    assert found[20::4].tobytes() == before[20:].tobytes()


@pytest.mark.parametrize(("rows", "length"), [(77, 77), (77, 78), (77, 120), (48, 248), (LEAST_ROWS, 100)])
def test_a_stretched_table_begins_and_ends_as_before(rows, length):
    before = table(1, rows - 1)
    found = stretch_positions(before, length)
    assert found.shape == (length, 5) and found[:20].tobytes() == before[:20].tobytes()
    assert length > rows or found.tobytes() == before.tobytes()
    np.testing.assert_allclose(found[20], before[20], rtol=0, atol=1e-6)
    line = stretch_positions(np.arange(rows, dtype=np.float32)[:, None], length)[
        :, 0
    ]  # of numbers: where a row is from
    steps = np.diff(line[20:])
    assert np.allclose(steps, (rows - 20) / (length - 20), atol=1e-5) and rows - 2 < line[-1] < rows


@pytest.mark.parametrize(
    ("image_size", "patch", "stride", "grid"),
    [
        ((384, 128), 16, 16, (24, 8)),
        ((384, 128), 16, 12, (31, 10)),
        ((383, 129), 16, 16, (23, 8)),
        ((16, 16), 16, 5, (1, 1)),
    ],
)
def test_patch_grid(image_size, patch, stride, grid):
    assert patch_grid(image_size, patch, stride) == grid
