"""The towers in pieces: the numbers of the whole, with the weights of the moment."""

from dataclasses import replace

import numpy as np
import parity
import pytest
from mindspore import Tensor

from ms_unireid.architectures import ARCHITECTURES, Architecture, TowerSize
from ms_unireid.models.encoders import image_encoder, text_encoder
from ms_unireid.models.ops import use_fast_ops
from ms_unireid.models.products import use_half_precision
from ms_unireid.models.unireid import build_model

ENCODERS = {"image": image_encoder, "text": text_encoder}


@pytest.fixture(autouse=True)
def deeper(monkeypatch):
    """Have an architecture of two pieces and a block that fills none before the last."""
    tower = TowerSize(64, 6, 2)
    monkeypatch.setitem(ARCHITECTURES, "deeper", Architecture(tower, tower, patch_size=8, embed_dim=32))


def made(form="fast", half=False):
    model = build_model(replace(parity.TINY, architecture="deeper"))
    if form == "fast":
        use_fast_ops(model)
    if half:
        use_half_precision(model)
    return model


def inputs(tower):
    images, _, token_ids = parity.numpy_batch(parity.TINY, 7, 3)
    return Tensor(images if tower == "image" else token_ids)


def whole(model, tower):
    return getattr(model, f"encode_{tower}")(inputs(tower)).asnumpy()


@pytest.mark.parametrize("form", parity.FORMS)
@pytest.mark.parametrize("tower", ENCODERS)
def test_pieces_have_the_numbers_of_the_whole(tower, form, mode):
    model = made(form)
    found = ENCODERS[tower](model)(inputs(tower)).asnumpy()
    np.testing.assert_array_equal(found, whole(model, tower))
    assert found.std() > 0.01


@pytest.mark.parametrize("tower", ENCODERS)
def test_pieces_in_half_precision(tower, pynative):
    found = ENCODERS[tower](made(half=True))(inputs(tower)).asnumpy()
    np.testing.assert_array_equal(found, whole(made(half=True), tower))
    assert np.abs(found - whole(made(), tower)).max() > 1e-5


@pytest.mark.parametrize("tower", ENCODERS)
def test_every_weight_of_the_moment_counts(tower, mode):
    """Each parameter of a tower, changed alone and after the first use, changes the features as it does the whole's."""
    model = made()
    encode = ENCODERS[tower](model)
    before = encode(inputs(tower)).asnumpy()
    for parameter in model.base_model.get_parameters():
        if parameter.name.startswith("base_model.visual.") != (tower == "image"):
            continue
        kept = parameter.asnumpy().copy()
        parameter.set_data(Tensor(kept + np.linspace(0.1, 0.2, kept.size, dtype=np.float32).reshape(kept.shape)))
        after = encode(inputs(tower)).asnumpy()
        assert np.abs(after - before).max() > 1e-4, parameter.name
        np.testing.assert_array_equal(after, whole(model, tower), err_msg=parameter.name)
        parameter.set_data(Tensor(kept))
    np.testing.assert_array_equal(encode(inputs(tower)).asnumpy(), before)


@pytest.mark.parametrize("tower", ENCODERS)
def test_one_graph_serves_all_blocks(tower, graph):
    encode = ENCODERS[tower](made())
    encode(inputs(tower))
    assert len(encode.pieces) == 2 and len(encode.piece.compile_cache) == 1
