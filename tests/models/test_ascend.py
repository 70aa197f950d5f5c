"""The Ascend form on a CPU: what has kernels here, and the rest with stand-ins written from its documentation."""

import mindspore as ms
import numpy as np
import parity
import pytest
from mindspore import Tensor
from mindspore.ops import operations as primitives

from ms_unireid.losses import Objective
from ms_unireid.models import ascend, ops
from ms_unireid.models.forms import Operations
from ms_unireid.models.unireid import UNIReID
from ms_unireid.training.gradient import NetworkWithObjective


def layer_norm(x, normalized_shape, weight, bias, eps):
    assert normalized_shape == x.shape[-1:]
    mean = x.mean(-1, keep_dims=True)
    variance = ((x - mean) ** 2).mean(-1, keep_dims=True)
    return (x - mean) / ms.ops.sqrt(variance + eps) * weight + bias


def flash_attention_score(query, key, value, head_num, attn_mask=None, scalar_value=1.0):
    """Softmax(mask(scale * q k^T)) v of (B, S, heads * D), where a true element of the mask is discarded."""
    assert query.dtype == key.dtype == value.dtype == ms.float16
    assert attn_mask is None or attn_mask.dtype == ms.bool_
    batch, length, width = query.shape
    q, k, v = (
        x.astype(ms.float32).reshape(batch, x.shape[1], head_num, -1).transpose(0, 2, 1, 3) for x in (query, key, value)
    )
    scores = scalar_value * ms.ops.BatchMatMul(transpose_b=True)(q, k)
    if attn_mask is not None:
        scores = ms.ops.where(attn_mask, Tensor(-np.inf, ms.float32), scores)
    mixed = ms.ops.BatchMatMul()(primitives.Softmax(-1)(scores), v)
    return mixed.transpose(0, 2, 1, 3).reshape(batch, length, width).astype(query.dtype)


@pytest.fixture
def standins(monkeypatch, pynative):
    """Replace what has no kernel on a CPU."""
    monkeypatch.setattr(ascend.ops, "layer_norm", layer_norm)
    monkeypatch.setattr(ascend.ops, "flash_attention_score", flash_attention_score)
    monkeypatch.setattr(ascend.mint, "argmax", lambda x, axis: primitives.Argmax(axis)(x))  # compiled, it has a kernel
    monkeypatch.setattr(ascend.mint.nn.functional, "embedding", lambda rows, table: ms.ops.gather(table, rows, 0))


def features_and_gradients(operations, arrays):
    model = UNIReID(parity.TINY, 1, operations)
    network = NetworkWithObjective(model, Objective(parity.ROWS["Full"]))
    params = ms.ParameterTuple(network.trained_parameters())
    _, grads = ms.value_and_grad(network, None, params, has_aux=True)(*parity.to_ms(arrays), Tensor(1.0, ms.float32))
    feats = [t.asnumpy() for t in model(*parity.to_ms(arrays))]
    return feats, {p.name: g.asnumpy() for p, g in zip(params, grads, strict=True)}


@pytest.mark.parametrize(
    ("precision", "feature_bound", "gradient_bound"), [("fp32", 2e-6, 2e-4), ("mixed", 4e-3, 4e-2)]
)
def test_the_whole_model_equals_the_plain_form(standins, precision, feature_bound, gradient_bound):
    arrays = parity.numpy_batch(parity.TINY, 5, 4)
    arrays[2][:, 8:] = 0
    arrays[2][:, 7] = 49407
    feats, grads = features_and_gradients(Operations("ascend", precision), arrays)
    expected, expected_grads = features_and_gradients(Operations(), arrays)
    for ours, plain in zip(feats, expected, strict=True):
        assert np.abs(ours - plain).max() <= feature_bound * np.abs(plain).max()
    difference, name = parity.gradient_difference(grads, expected_grads)
    assert difference < gradient_bound, name


def test_flash_attention_is_used_where_heads_fit_it(standins, monkeypatch):
    calls = []

    def counted(*arguments, **options):
        calls.append(arguments[0].shape)
        return flash_attention_score(*arguments, **options)

    monkeypatch.setattr(ascend.ops, "flash_attention_score", counted)
    x = Tensor(np.random.default_rng(0).standard_normal((2, 5, 3 * 64), dtype=np.float32))
    for heads, precision, used in ((4, "mixed", 1), (4, "fp32", 0), (8, "mixed", 0)):
        calls.clear()
        found = Operations("ascend", precision).make(ops.AttentionCore, heads)(x)[0].asnumpy()
        assert len(calls) == used
        np.testing.assert_allclose(found, Operations().make(ops.AttentionCore, heads)(x)[0].asnumpy(), atol=5e-3)


def test_shorter_captions_have_the_same_features(standins):
    for precision in ("fp32", "mixed"):
        model = UNIReID(parity.TINY, 1, Operations("ascend", precision))
        token_ids = parity.numpy_batch(parity.TINY, 5, 3)[2]
        token_ids[:, 6:], token_ids[:, 5] = 0, 49407
        whole = model.encode_text(Tensor(token_ids)).asnumpy()
        np.testing.assert_allclose(model.encode_text(Tensor(token_ids[:, :6])).asnumpy(), whole, atol=2e-3)


def test_picks_compiled(graph):
    """Without stand-ins; the first of equal maxima is taken."""
    plain, ours = Operations().make(ops.Pick), Operations("ascend").make(ops.Pick)
    x = Tensor(np.arange(72, dtype=np.float32).reshape(6, 3, 4) % 7)

    class Picked(ms.nn.Cell):
        def __init__(self, pick):
            super().__init__()
            self.pick = pick

        def construct(self, x, rows):
            table = x.reshape(6, 12)
            ids = table.astype(ms.int32)
            picked = self.pick(table, rows), self.pick.first(x), self.pick.prefix(x, 2), *self.pick.parts(x, 3)
            return (*picked, self.pick.largest(ids))

    rows = Tensor(np.array([[0, 5], [3, 3]], np.int32))
    for found, expected in zip(Picked(ours)(x, rows), Picked(plain)(x, rows), strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found.asnumpy(), expected.asnumpy())
