"""The last block, computed for one token of each sequence, against the whole block with the same weights."""

import mindspore as ms
import numpy as np
import parity
import pytest
from mindspore import Tensor, nn

from ms_unireid.config_schema import TowerSize
from ms_unireid.models.forms import Operations
from ms_unireid.models.transformer import ReadoutBlock, ResidualAttentionBlock

SIZE = TowerSize(24, 2, 3)
CAUSAL = np.triu(np.full((9, 9), -np.inf, np.float32), 1)
# Where each of four sequences of seven tokens is read.
PLACES = np.array([0, 6, 3, 2], np.int32)


class Picked(nn.Cell):
    """A scalar of the whole block's output at the positions, with a different gradient for each element."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def construct(self, x, asked):
        return (self.block(x)[ms.ops.arange(4), Tensor(PLACES)] * asked).sum()


class Read(nn.Cell):
    """The same scalar of the readout block's output."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def construct(self, x, asked):
        places = Tensor(PLACES)
        return (self.block(x[ms.ops.arange(4), places], x, places) * asked).sum()


def gradients(cell, x, asked):
    """Return the value and the gradients of the input and of each parameter."""
    parameters = list(cell.trainable_params())
    value, (inputs, weights) = ms.value_and_grad(cell, 0, parameters)(Tensor(x), Tensor(asked))
    names = [parameter.name for parameter in parameters]
    return {"value": value.asnumpy(), "x": inputs.asnumpy()} | {
        name: gradient.asnumpy() for name, gradient in zip(names, weights, strict=True)
    }


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("mask", [None, CAUSAL], ids=["open", "causal"])
@pytest.mark.parametrize("form", parity.FORMS)
def test_the_token_that_is_read_is_the_whole_blocks(form, mask, activation, pynative):
    mask = None if mask is None else Tensor(mask)
    kinds = (ResidualAttentionBlock, ReadoutBlock)
    made = [kind(SIZE, activation, np.random.default_rng(3), Operations(form), mask) for kind in kinds]
    x, asked = (np.random.default_rng(4).standard_normal(shape, dtype=np.float32) for shape in ((4, 7, 24), (4, 24)))
    whole, read = gradients(Picked(made[0]), x, asked), gradients(Read(made[1]), x, asked)
    assert whole.keys() == read.keys() and len(read) == 2 + 12
    scale = max(np.abs(value).max() for value in whole.values())
    for name, value in whole.items():
        np.testing.assert_allclose(read[name], value, atol=1e-6 * scale, err_msg=name)
    # What is behind the token, a causal mask hides.
    assert (np.abs(read["x"][0, 1:]).max() == 0) == (mask is not None)
