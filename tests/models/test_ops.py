"""The other forms of the towers' operations against the plain ones and against torch: values and gradients."""

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Tensor, nn

from ms_unireid.models import ops
from ms_unireid.models.forms import Operations

CAUSAL = np.triu(np.full((12, 12), -np.inf, np.float32), 1)


class First(nn.Cell):
    """The first result of a cell that has several."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def construct(self, *inputs):
        return self.cell(*inputs)[0]


def made(kind, *arguments):
    return lambda operations: operations.make(kind, *arguments)


def first(kind, *arguments):
    return lambda operations: First(operations.make(kind, *arguments))


def torch_attention(heads, mask=None):
    def attend(qkv):
        batch, length, width = qkv.shape
        q, k, v = qkv.reshape(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.mT / (width // 3 // heads) ** 0.5
        if mask is not None:
            scores = scores + torch.from_numpy(mask[:length, :length])
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)

    return attend


def torch_quick(x, weight, bias):
    return torch.nn.functional.linear(x * torch.sigmoid(1.702 * x), weight, bias)


def torch_gelu(x, weight, bias):
    return torch.nn.functional.linear(torch.nn.functional.gelu(x), weight, bias)


def torch_norm(x, weight, bias):
    return torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias, 1e-5)


AFFINE, VECTORS = [(13, 24), (40, 24), (40,)], [(13, 24), (24,), (24,)]
# Maker of the plain form, the same in torch, shapes of the arguments.
CASES = {
    "affine": (made(ops.Affine), torch.nn.functional.linear, AFFINE),
    "affine of one row": (made(ops.Affine), torch.nn.functional.linear, [(1, 24), (40, 24), (40,)]),
    "affine of many rows": (made(ops.Affine), torch.nn.functional.linear, [(1030, 24), (40, 24), (40,)]),
    "gelu": (made(ops.GELUAffine), torch_gelu, AFFINE),
    "quick_gelu": (made(ops.QuickGELUAffine), torch_quick, AFFINE),
    "quick_gelu of many rows": (made(ops.QuickGELUAffine), torch_quick, [(1030, 24), (40, 24), (40,)]),
    "norm": (first(ops.Normalize), torch_norm, VECTORS),
    "norm of one row": (first(ops.Normalize), torch_norm, [(1, 24), (24,), (24,)]),
    "attention": (first(ops.AttentionCore, 3), torch_attention(3), [(4, 12, 72)]),
    "attention alone": (first(ops.AttentionCore, 3), torch_attention(3), [(1, 1, 72)]),
    "masked": (first(ops.AttentionCore, 2, Tensor(CAUSAL)), torch_attention(2, CAUSAL), [(3, 12, 24)]),
    "masked, odd, alone": (
        first(ops.AttentionCore, 2, Tensor(CAUSAL)),
        torch_attention(2, CAUSAL),
        [(1, 7, 24)],
    ),
}


def form(maker, name, precision="fp32"):
    return maker(Operations(name, precision))


class Weighted(nn.Cell):
    """A scalar with a different gradient for each element."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def construct(self, asked, *inputs):
        return (self.cell(*inputs) * asked).sum()


def arrays(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape, dtype=np.float32) * 1.5 for shape in shapes]


def evaluate(cell, inputs, asked):
    """Return the value and the gradients of all inputs."""
    inputs = [Tensor(a) for a in inputs]
    places = tuple(range(1, 1 + len(inputs)))
    grads = ms.grad(Weighted(cell), places)(Tensor(asked), *inputs)
    grads = grads if isinstance(grads, tuple) else (grads,)
    return [cell(*inputs).asnumpy(), *(g.asnumpy() for g in grads)]


def in_torch(function, inputs, asked):
    """Return what `evaluate` returns, computed by torch in float64."""
    inputs = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in inputs]
    value = function(*inputs)
    value.backward(torch.from_numpy(asked).double())
    return [value.detach().numpy(), *(a.grad.numpy() for a in inputs)]


def assert_close(found, expected, bound):
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= bound * max(np.abs(theirs).max(), 1e-3)


PAIRS = [("fast", case) for case in CASES] + [
    ("ascend", case) for case in ("affine", "gelu", "quick_gelu", "attention", "masked, odd, alone")
]


@pytest.mark.parametrize(("name", "case"), PAIRS)
def test_each_form_equals_plain_and_torch(name, case, mode):
    maker, function, shapes = CASES[case]
    inputs = arrays(shapes)
    plain = form(maker, "plain")
    asked = arrays([plain(*[Tensor(a) for a in inputs]).shape], 1)[0]
    found, expected = evaluate(form(maker, name), inputs, asked), in_torch(function, inputs, asked)
    assert_close(found, evaluate(plain, inputs, asked), 2e-6)
    assert_close(found, expected, 5e-6)


@pytest.mark.parametrize("case", ["affine", "quick_gelu", "attention", "masked"])
def test_half_precision_in_both_forms(case, pynative):
    """Products are in half precision, forward and backward; everything else is not."""
    maker, _, shapes = CASES[case]
    inputs = arrays(shapes)
    plain, fast = form(maker, "plain", "mixed"), form(maker, "fast", "mixed")
    assert all(cell.precision == "mixed" for _, cell in fast.cells_and_names() if isinstance(cell, ops.MatMul))
    asked = arrays([plain(*[Tensor(a) for a in inputs]).shape], 1)[0]
    found = evaluate(fast, inputs, asked)
    assert_close(found, evaluate(plain, inputs, asked), 4e-3)
    assert any(
        np.abs(a - b).max() > 1e-5 for a, b in zip(found, evaluate(form(maker, "fast"), inputs, asked), strict=True)
    )


def test_the_fast_form_is_another_class():
    for kind in (ops.Affine, ops.QuickGELUAffine, ops.GELUAffine, ops.Normalize):
        fast = Operations("fast").make(kind)
        assert type(Operations().make(kind)) is kind and type(fast) is not kind and isinstance(fast, kind)
