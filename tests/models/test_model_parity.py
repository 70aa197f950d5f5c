"""The dual encoder against the PyTorch reference: names, shapes, features."""

import gc
import math
from dataclasses import replace

import numpy as np
import parity
import pytest
import torch
from mindspore import Parameter, Tensor

from ms_unireid.config import ModelConfig
from ms_unireid.models import clip, transformer, vision
from ms_unireid.models.forms import Operations
from ms_unireid.models.unireid import UNIReID, build_model
from reference import model as reference_model

NAMES = ("image", "sketch", "text", "fused")
GEOMETRIES = {
    "tiles": parity.TINY,
    "overlap": replace(parity.TINY, stride=3),
    "rest_left_out": replace(parity.TINY, image_size=(37, 21), stride=5),
    "square": replace(parity.TINY, image_size=(16, 16), context_length=77, temperature=0.02),
}


def shapes(net):
    if isinstance(net, torch.nn.Module):
        return {name: tuple(value.shape) for name, value in net.state_dict().items()}
    return {p.name: tuple(p.shape) for p in net.get_parameters()}


def reference_features(net, batch):
    with torch.no_grad():
        *feats, scale = net(*parity.to_torch(batch))
    return {name: value.numpy() for name, value in zip(NAMES, feats, strict=True)}, scale.item()


def our_features(net, batch):
    *feats, scale = net(*parity.to_ms(batch))
    assert scale.shape == ()
    return {name: value.asnumpy() for name, value in zip(NAMES, feats, strict=True)}, float(scale.asnumpy())


@pytest.fixture(scope="module", params=[(geometry, form) for geometry in GEOMETRIES for form in parity.FORMS])
def twins(request):
    """The reference and ours with the same weights, in both forms of its operations."""
    geometry, form = request.param
    config = GEOMETRIES[geometry]
    theirs, ours = parity.reference_for(config, 3), UNIReID(config, 1, Operations(form))
    parity.copy_weights(theirs, ours)
    return config, theirs, ours


@pytest.fixture(scope="module")
def tiny():
    return build_model(parity.TINY)


def test_features(twins, mode):
    config, theirs, ours = twins
    batch = parity.numpy_batch(config, 5, 4)
    (expected, scale), (found, our_scale) = reference_features(theirs, batch), our_features(ours, batch)
    assert our_scale == pytest.approx(scale, rel=2e-6)
    assert {name: f.shape for name, f in found.items()} == {name: f.shape for name, f in expected.items()}
    assert parity.max_difference(found, expected) < 1e-5
    assert found["image"].std() > 0.2


def test_encoders_agree_with_the_whole(twins, pynative):
    config, _, ours = twins
    images, sketches, token_ids = parity.to_ms(parity.numpy_batch(config, 6, 3))
    image, sketch, text, fused, _ = (t.asnumpy() for t in ours(images, sketches, token_ids))
    for single, feats in ((images, image), (sketches, sketch)):
        np.testing.assert_allclose(ours.encode_image(single).asnumpy(), feats, atol=1e-5)
    np.testing.assert_allclose(ours.encode_text(token_ids).asnumpy(), text, atol=1e-5)
    np.testing.assert_array_equal(fused, sketch + text)


def test_text_is_read_at_the_first_end_token_and_not_after_it(twins, pynative):
    config, theirs, ours = twins
    _, _, token_ids = parity.numpy_batch(config, 7, 4)
    token_ids[:, 5:] = 0
    token_ids[:, 5] = 49407
    noisy = token_ids.copy()
    noisy[:, 6:] = np.random.default_rng(0).integers(1, 49406, noisy[:, 6:].shape)
    noisy[:, 8] = 49407
    plain, disturbed = (ours.encode_text(Tensor(ids)).asnumpy() for ids in (token_ids, noisy))
    np.testing.assert_allclose(disturbed, plain, atol=1e-6)
    with torch.no_grad():
        np.testing.assert_allclose(theirs.encode_text(*parity.to_torch([noisy])).numpy(), plain, atol=1e-5)


@pytest.fixture
def zeros(monkeypatch):
    """Build models of zeros: drawing the values is most of the time."""
    for module in (transformer, clip, vision):
        monkeypatch.setattr(
            module, "normal_parameter", lambda rng, shape, std: Parameter(Tensor(np.zeros(shape, "f4")))
        )


@pytest.mark.parametrize("architecture", ["ViT-B/16", "ViT-B/32", "ViT-L/14", "small", "tiny"])
def test_names_and_shapes(architecture, zeros):
    config = ModelConfig(architecture=architecture)
    with torch.device("meta"):
        theirs = reference_model.UNIReID(**parity.reference_sizes(config))
    ours = shapes(build_model(config))
    assert ours == shapes(theirs)
    if architecture == "ViT-B/16":
        assert len(ours) == 302
        assert sum(math.prod(shape) for shape in ours.values()) == 149_617_665


def test_seed_alone_decides_the_weights(tiny):
    first, again, other = (
        parity.parameters(net) for net in (tiny, build_model(parity.TINY), build_model(parity.TINY, 2))
    )
    assert parity.max_difference(first, again) == 0
    changed = {name for name in first if not np.array_equal(first[name], other[name])}
    assert all("ln_" in name or "bias" in name or name == "logit_scale" for name in first.keys() - changed)
    assert len(changed) == 7 + 4 * 4


def test_initial_scales():
    values = parity.parameters(build_model(replace(parity.TINY, architecture="small")))
    width, layers = 128, 4
    expected = {
        "base_model.token_embedding.weight": 0.02,
        "base_model.positional_embedding": 0.01,
        "base_model.text_projection": width**-0.5,
        "base_model.visual.proj": width**-0.5,
        "base_model.visual.conv1.weight": (3 * 8 * 8) ** -0.5,
        "base_model.transformer.resblocks.1.attn.in_proj_weight": width**-0.5,
        "base_model.transformer.resblocks.1.attn.out_proj.weight": (2 * layers * width) ** -0.5,
        "base_model.transformer.resblocks.1.mlp.c_fc.weight": (2 * width) ** -0.5,
        "base_model.transformer.resblocks.1.mlp.c_proj.weight": (2 * layers * width) ** -0.5,
    }
    for name, std in expected.items():
        assert values[name].std() == pytest.approx(std, rel=0.05), name
    assert values["logit_scale"] == pytest.approx(2.6592600, abs=1e-6)
    assert (values["base_model.ln_final.weight"] == 1).all()
    assert not values["base_model.ln_final.bias"].any()


def test_fixed_temperature_is_not_trained():
    net = build_model(replace(parity.TINY, learnable_temperature=False))
    assert "logit_scale" in {p.name for p in net.get_parameters()}
    assert "logit_scale" not in {p.name for p in net.trainable_params()}


@pytest.mark.parametrize("model", [parity.FULL_WIDTH, pytest.param(parity.FULL_SIZE, marks=pytest.mark.exhaustive)])
def test_features_of_the_full_width(model, zeros, pynative):
    """Both forms, with three blocks or twelve; a step of the same compiles the model."""
    theirs = parity.reference_for(model, 3)
    batch = parity.numpy_batch(model, 5, 2)
    expected, _ = reference_features(theirs, batch)
    for form in parity.FORMS:
        ours = UNIReID(model, 1, Operations(form))
        parity.copy_weights(theirs, ours)
        assert parity.max_difference(our_features(ours, batch)[0], expected) < 1e-4
        del ours
        gc.collect()
