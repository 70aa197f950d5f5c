"""The compiled encoders give the features of the model, with its current weights."""

from dataclasses import replace

import numpy as np
import parity
import pytest
from mindspore import Tensor

from ms_unireid.config_schema import ARCHITECTURES, Architecture, TowerSize
from ms_unireid.models.encoders import ImageEncoder, TextEncoder
from ms_unireid.models.forms import Operations
from ms_unireid.models.unireid import UNIReID

ENCODERS = {"image": ImageEncoder, "text": TextEncoder}


@pytest.fixture(autouse=True)
def deeper(monkeypatch):
    """Register an architecture of two pieces, one remaining block and the last block."""
    tower = TowerSize(64, 6, 2)
    monkeypatch.setitem(ARCHITECTURES, "deeper", Architecture(tower, tower, patch_size=8, embed_dim=32))


def made(form="fast", precision="fp32"):
    return UNIReID(replace(parity.TINY, architecture="deeper"), 1, Operations(form, precision))


def inputs(tower):
    images, _, token_ids = parity.numpy_batch(parity.TINY, 7, 3)
    return Tensor(images if tower == "image" else token_ids)


def whole(model, tower):
    return getattr(model, f"encode_{tower}")(inputs(tower)).asnumpy()


@pytest.mark.parametrize("form", parity.FORMS)
@pytest.mark.parametrize("tower", ENCODERS)
def test_encoders_have_the_numbers_of_the_model(tower, form, mode):
    """Also after a change of every parameter: one that kept its first value would show in the last bits."""
    model = made(form)
    encode, chance = ENCODERS[tower](model), np.random.default_rng(0)
    before = encode(inputs(tower)).asnumpy()
    np.testing.assert_array_equal(before, whole(model, tower))
    assert before.std() > 0.01
    parameters = [p for p in model.base_model.get_parameters() if ("visual." in p.name) == (tower == "image")]
    first = parity.parameters(parameters)
    for parameter in parameters:
        shift = chance.uniform(0.01, 0.02, parameter.shape).astype(np.float32)
        parameter.set_data(Tensor(first[parameter.name] + shift))
    after = encode(inputs(tower)).asnumpy()
    assert np.abs(after - before).max() > 1e-4
    np.testing.assert_array_equal(after, whole(model, tower))
    for parameter in parameters:
        parameter.set_data(Tensor(first[parameter.name]))
    np.testing.assert_array_equal(encode(inputs(tower)).asnumpy(), before)
    if mode == "graph" and tower == "image":
        assert len(encode.pieces) == 2 and len(encode.piece.compile_cache) == 1  # two blocks serve all
    elif mode == "graph":
        one_graph_takes_captions_of_any_number_and_length(encode, before)


def one_graph_takes_captions_of_any_number_and_length(encode, feats):
    token_ids = inputs("text").asnumpy()
    end = int(token_ids.argmax(1).max()) + 1
    for rows, length in ((3, 12), (1, 12), (2, end), (3, end)):
        found = encode(Tensor(token_ids[:rows, :length])).asnumpy()
        np.testing.assert_allclose(found, feats[:rows], atol=3e-6)  # of 2.8; a few tokens round otherwise
    assert len(encode.compile_cache) == 1


@pytest.mark.parametrize("tower", ENCODERS)
def test_encoders_in_half_precision(tower, pynative):
    found = ENCODERS[tower](made(precision="mixed"))(inputs(tower)).asnumpy()
    np.testing.assert_array_equal(found, whole(made(precision="mixed"), tower))
    assert np.abs(found - whole(made(), tower)).max() > 1e-5
