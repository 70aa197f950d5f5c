"""Captions cut after their ends have the features of whole ones, in the given order, in any mixture of batches."""

from dataclasses import replace

import numpy as np
import parity
import pytest
from mindspore import Tensor

from ms_unireid.config import Config, DataConfig, EvalConfig
from ms_unireid.data.tokenizer import Tokenizer
from ms_unireid.evaluation.encoder import Encoder, caption_batches
from ms_unireid.models import encoders
from ms_unireid.models.unireid import build_model
from ms_unireid.runtime import Processes

MODEL = replace(parity.TINY, context_length=40)
CONFIG = Config(model=MODEL, eval=EvalConfig(batch_size=4))
# 3 to 40 tokens, start and end included; the last is cut by the tokenizer.
CAPTIONS = [" ".join(["man"] * words) for words in (1, 38, 14, 15, 30, 2, 29, 31, 5, 60)]


@pytest.fixture(scope="module")
def model():
    return build_model(MODEL)


@pytest.fixture(scope="module")
def whole(model):
    """The features of the captions at the context length."""
    return model.encode_text(Tensor(Tokenizer(40)(CAPTIONS))).asnumpy()


def test_cut_captions_have_the_features_of_the_whole(model, whole, mode):
    found = Encoder(model, CONFIG).captions(CAPTIONS)
    np.testing.assert_allclose(found, whole, rtol=1e-6, atol=1e-6)
    assert np.abs(whole - whole[0]).max() > 0.1


def test_a_device_compiles_captions_of_few_lengths(model, whole, graph, monkeypatch):
    monkeypatch.setattr(encoders.ms, "get_context", lambda _: "Ascend")
    found = Encoder(model, replace(CONFIG, eval=EvalConfig(batch_size=2)))
    np.testing.assert_allclose(found.captions(CAPTIONS), whole, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.captions(CAPTIONS[::-1]), whole[::-1], rtol=1e-6, atol=1e-6)
    assert len(found.text_encoder.compile_cache) == 3  # of 16, 32 and 40 tokens, the context length


def test_a_captions_feature_does_not_depend_on_the_others(model, pynative):
    extractor = Encoder(model, CONFIG)
    together = extractor.captions(CAPTIONS)
    # Not the same bits on processors without AVX-512, whose kernels for products depend on the number of rows.
    close = {"rtol": 1e-6, "atol": 1e-6}
    for i in (0, 1, 4, 9):
        np.testing.assert_allclose(extractor.captions([CAPTIONS[i]])[0], together[i], **close)
    np.testing.assert_allclose(extractor.captions(CAPTIONS[::-1])[::-1], together, **close)


@pytest.mark.parametrize("lengths", [range(16, 78), (16, 32, 48, 64, 77)])
@pytest.mark.parametrize("count", [1, 7, 8, 79])
def test_every_caption_is_in_a_batch_that_holds_it(count, lengths):
    word_counts = np.random.default_rng(1).permutation(np.arange(1, 80))[:count]
    token_ids = Tokenizer(77)([" ".join(["man"] * words) for words in word_counts])
    batches = caption_batches(token_ids, 8, lengths)
    assert len(batches) == -(-count // 8) and all(len(rows) == 8 for rows, _ in batches)
    assert {int(row) for rows, _ in batches for row in rows} == set(range(count))
    assert [length for _, length in batches] == sorted(length for _, length in batches)
    for rows, length in batches:
        ends = token_ids[rows].argmax(1) + 1
        # Nothing is computed behind the longest but up to the next length.
        assert length >= ends.max() and not any(ends.max() <= shorter < length for shorter in lengths)


def test_processes_share_whole_batches(model, whole, pynative, monkeypatch):
    """The blocks that the processes encode, joined in rank order, are the whole."""
    shares = []
    monkeypatch.setattr("ms_unireid.distributed.all_gather_rows", lambda feats, _: shares.append(feats) or feats)
    count = len(caption_batches(Tokenizer(40)(CAPTIONS), 4, range(16, 78)))
    for rank in range(2):
        extractor = Encoder(model, CONFIG, processes=Processes(rank, 2))
        with pytest.raises(ValueError, match="shape mismatch"):
            extractor.captions(CAPTIONS)  # it alone has a part only
    rows = np.concatenate([rows for rows, _ in caption_batches(Tokenizer(40)(CAPTIONS), 4, range(16, 78))])
    np.testing.assert_allclose(np.concatenate(shares)[: 4 * count], whole[rows], rtol=1e-6, atol=1e-6)


def test_a_split_caption_has_the_mean_of_its_pieces_features(model, whole, pynative):
    """In both ways of encoding; captions that fit keep their bits."""
    split = Encoder(model, replace(CONFIG, data=DataConfig(long_captions="split")))
    plain = Encoder(model, CONFIG)
    texts = [*CAPTIONS[:9], "a man. " * 20]
    found, expected = split.captions(texts), plain.captions(["a man."] * 3)[0]
    np.testing.assert_allclose(found[:9], whole[:9], rtol=1e-6, atol=1e-6)
    sentence = plain.captions(["man " * 38, "man " * 22]).mean(0)
    np.testing.assert_allclose(split.caption(CAPTIONS[9]), sentence, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[9], expected, rtol=1e-5, atol=1e-6)
    for number in (0, 4, 9):
        np.testing.assert_allclose(split.caption(texts[number]), found[number], rtol=1e-6, atol=1e-6)
    assert plain.caption(CAPTIONS[4]).tobytes() == plain.tokens(Tokenizer(40)([CAPTIONS[4]]))[0].tobytes()


@pytest.mark.parametrize("device", ["CPU", "Ascend"])
def test_a_stretched_table_takes_long_captions(pynative, monkeypatch, device):
    config = replace(CONFIG, model=replace(MODEL, context_length=120), data=DataConfig(long_captions="stretch"))
    model, short = build_model(config.model), build_model(MODEL)
    monkeypatch.setattr(encoders.ms, "get_context", lambda _: device)
    texts = ["man " * words for words in (1, 40, 76, 90, 118, 130)]
    found = Encoder(model, config)
    assert set(found.text_lengths) >= ({77, 104, 120} if device == "Ascend" else set(range(16, 121)))
    assert max(found.text_lengths) == 120 and max(Encoder(short, CONFIG).text_lengths) == 77
    expected = model.encode_text(Tensor(Tokenizer(120)(texts))).asnumpy()
    np.testing.assert_allclose(found.captions(texts), expected, rtol=1e-5, atol=1e-6)
    assert np.abs(expected[3] - expected[4]).max() > 0.01
