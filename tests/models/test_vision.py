"""Pictures of uint8 are normalised by the network as in memory, to the same bits."""

import numpy as np
import parity
import pytest
from mindspore import Tensor

from ms_unireid.data.transforms import normalize
from ms_unireid.models.forms import Operations
from ms_unireid.models.vision import NormalizedPixels, to_device


@pytest.fixture(scope="module")
def planes():
    """Every level in every channel, and erased rectangles."""
    planes = np.random.default_rng(0).integers(0, 256, (3, 4, 32, 16), np.uint8)
    planes[0, :3] = np.arange(256, dtype=np.uint8).reshape(-1, 16).repeat(2, 0)
    planes[:, 3] = 0
    planes[1, 3, 5:20, 2:9] = 1
    return planes


@pytest.mark.parametrize("form", [*parity.FORMS, "ascend"])
@pytest.mark.parametrize("count", [3, 4])
def test_normalised_to_the_same_bits(planes, form, count, mode):
    images, cell = planes[:, :count], NormalizedPixels(Operations(form))
    expected = normalize(images)
    assert (expected[1, :, 5:20, 2:9] == expected[1, :, 5:6, 2:3]).all() == (count == 4)
    for given in (Tensor(images), to_device(images), Tensor(expected)):
        found = cell(given).asnumpy()
        np.testing.assert_array_equal(found.view(np.int32), expected.view(np.int32))
