"""Our own products in bfloat16: those of rounded matrices, in every form and on processors without them too."""

import shutil

import numpy as np
import pytest
import torch
from mindspore import Tensor
from torch.nn.functional import linear

from ms_unireid import runtime
from ms_unireid.errors import ConfigError, EnvironmentProblem
from ms_unireid.models import bfloat16, forms, self_check
from ms_unireid.models.ops import ROUNDED

if shutil.which("c++") is None:
    pytest.skip("the operator is compiled by a C++ compiler", allow_module_level=True)

# The whole panels of the operator have 12 rows, 32 columns and two steps of depth.
SHAPES = [(24, 64, 64), (1, 1, 1), (13, 33, 31), (5, 200, 7), (130, 3, 97), (300, 129, 35)]


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        bfloat16.library.cache_clear()
        yield
    bfloat16.library.cache_clear()


@pytest.fixture(params=["native", "x86-64"])
def processor(request, monkeypatch):
    """Compile for this processor, and for one without AVX512-BF16."""
    if request.param != "native":
        monkeypatch.setattr(bfloat16, "_TARGET", "-march=x86-64")
        monkeypatch.setattr(bfloat16, "bfloat16_products", frozenset)
    bfloat16.library.cache_clear()
    yield
    bfloat16.library.cache_clear()


def rounded(x: np.ndarray) -> np.ndarray:
    return torch.from_numpy(x).bfloat16().double().numpy()


@pytest.mark.parametrize(("rows", "outputs", "inputs"), SHAPES)
def test_products_of_rounded_matrices(processor, pynative, rows, outputs, inputs):
    rng = np.random.default_rng(1)
    x, weight, dout = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((rows, inputs), (outputs, inputs), (rows, outputs))
    )
    for product, a, b, expected in (
        (bfloat16.RoundedMatMul(transpose_b=True), x, weight, rounded(x) @ rounded(weight).T),
        (bfloat16.RoundedMatMul(), dout, weight, rounded(dout) @ rounded(weight)),
        (bfloat16.RoundedMatMul(transpose_a=True), dout, x, rounded(dout).T @ rounded(x)),
    ):
        np.testing.assert_allclose(product(Tensor(a), Tensor(b)).asnumpy(), expected, rtol=1e-5, atol=1e-5)


def test_what_is_not_finite_stays_so(processor, pynative):
    x = np.array([[np.nan, 0], [np.inf, 0], [-np.inf, 0], [3.39e38, 0], [3.4028e38, 0]], np.float32)
    found = bfloat16.RoundedMatMul()(Tensor(x), Tensor(np.eye(2, dtype=np.float32))).asnumpy()
    # The last is nearer to infinity than to the largest bfloat16. Each is multiplied by 0 as well.
    assert np.isnan(found[:3, 1]).all() and found[3].tolist() == [rounded(x)[3, 0], 0]
    np.testing.assert_array_equal(found[[0, 1, 2, 4], 0], [np.nan, np.inf, -np.inf, np.inf])


@pytest.mark.parametrize("kind", [forms.FastAffine, forms.FastQuickGELUAffine])
def test_maps_and_their_gradients(pynative, kind):
    import mindspore as ms

    rng, map_of = np.random.default_rng(2), kind(ROUNDED)
    x, weight, bias, dout = (rng.standard_normal(s).astype(np.float32) for s in ((40, 48), (64, 48), (64,), (40, 64)))
    gradient = ms.grad(lambda *values: (map_of(*values) * Tensor(dout)).sum(), (0, 1, 2))
    theirs = [torch.from_numpy(value).requires_grad_() for value in (x, weight, bias)]
    active = theirs[0] if kind is forms.FastAffine else theirs[0] * torch.sigmoid(1.702 * theirs[0])
    out = linear(active, *theirs[1:])
    (out * torch.from_numpy(dout)).sum().backward()
    ours = [map_of(*map(Tensor, (x, weight, bias))), *gradient(*map(Tensor, (x, weight, bias)))]
    for found, expected in zip(ours, [out.detach(), *(value.grad for value in theirs)], strict=True):
        # Each product of rounded values is off by at most 2^-8 of its size.
        scale = float(expected.abs().max())
        np.testing.assert_allclose(found.asnumpy(), expected, atol=0.01 * scale)
    assert np.abs(ours[0].asnumpy() - out.detach().numpy()).max() > 1e-4  # rounded indeed


def test_a_step_of_the_whole_model(pynative):
    expected = self_check.measure(forms.Operations("plain", "fp32"))
    found = self_check.compare(self_check.measure(forms.Operations("fast", ROUNDED)), expected)
    assert [value < bound for value, bound in zip(found, (2e-2, 5e-2, 1e-3), strict=True)] == [True] * 3, found
    assert found[0] > 1e-4


def test_compiled_with_open_shapes(graph):
    """Two seconds: a product whose rows are known when it runs."""
    product = bfloat16.RoundedMatMul(transpose_b=True)
    product.set_inputs(Tensor(shape=(None, 6), dtype=Tensor(0.0).dtype), Tensor(np.ones((3, 6), np.float32)))
    for rows in (2, 5):
        x = np.arange(6 * rows, dtype=np.float32).reshape(rows, 6)
        found = product(Tensor(x), Tensor(np.ones((3, 6), np.float32))).asnumpy()
        np.testing.assert_array_equal(found, np.repeat(x.sum(1)[:, None], 3, 1))


def test_the_operator_is_compiled_once(monkeypatch, tmp_path):
    first = bfloat16.library()
    bfloat16.library.cache_clear()
    monkeypatch.setattr(bfloat16, "_build", lambda *_: 1 / 0)
    assert bfloat16.library() == first


@pytest.mark.parametrize(
    ("compiler", "source", "words"),
    [
        ("no-such-compiler", None, r"needs a C\+\+ compiler .*: install g\+\+ 10 .* or set runtime.precision=fp32"),
        ("true", None, "true does not know this processor's AVX512-BF16: install"),
        ("c++", "this is no C++", r"c\+\+ cannot compile .*odd\.cpp .*; install"),
    ],
)
def test_a_compiler_that_does_not_work(monkeypatch, tmp_path, compiler, source, words):
    if source:
        (tmp_path / "odd.cpp").write_text(source, encoding="utf-8")
        monkeypatch.setattr(bfloat16, "_SOURCE", tmp_path / "odd.cpp")
    else:
        monkeypatch.setattr(bfloat16, "bfloat16_products", lambda: frozenset({"avx512_bf16"}))
    monkeypatch.setenv("CXX", compiler)
    bfloat16.library.cache_clear()
    with pytest.raises(EnvironmentProblem, match=words) as caught:
        bfloat16.library()
    assert "\n" not in str(caught.value)


def test_operations_of_a_processor(monkeypatch):
    from ms_unireid.config import RuntimeConfig

    config = RuntimeConfig(device="CPU", precision="bf16")
    for found, precision in (({"avx512_bf16"}, ROUNDED), ({"avx512_bf16", "amx_bf16"}, "fp32")):
        for module in (forms, runtime):
            monkeypatch.setattr(module, "bfloat16_products", lambda found=found: frozenset(found))
        assert forms.Operations.of(config) == forms.Operations("fast", precision)
    for module in (forms, runtime):
        monkeypatch.setattr(module, "bfloat16_products", lambda: frozenset({"avx512_bf16"}))
    with pytest.raises(ConfigError, match=r"has no plain form on this processor: set runtime\.fused_ops=auto"):
        forms.Operations.of(RuntimeConfig(device="CPU", precision="bf16", fused_ops="plain"))
