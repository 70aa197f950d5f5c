"""The tokenizer against known ids, an independent slow one, and unusual texts."""

import itertools
import json
import os
import pickle
import random
import subprocess
import sys
from unicodedata import ucd_3_2_0

import numpy as np
import pytest
from data.tri_factory import real_data

from ms_unireid.data import tokenizer as module
from ms_unireid.data.tokenizer import VOCABULARY, Tokenizer, read_merges
from ms_unireid.errors import DataError

reference_tokenizer = pytest.importorskip("reference.tokenizer", reason="needs tests/ on the path: PYTHONPATH=tests")

WORDS = """a man woman wearing backpack sneakers t-shirt jekyll antidisestablishmentarianism zzzzqx McDonald's
    I'm they're he'd she'll we've don't x's 1234 3/4 50% 2nd $9.99 ... !!! ?!'s '' '''s " -- (red) #1 @home a_b
    café naïve Ünïcode ſtraße İstanbul ŉ ﬁne K ½ ² Ⅷ ٣ 中文 日本語テキスト 한국어 русский עברית العربية ไทย हिन्दी
    🎒 👩‍🦰 🇨🇳 😀😀 &amp; &lt;b&gt; &amp;lt; &#39; &nbsp; &#x1F600; â€™ Ã© ‘curly’ “quotes” – — … \u200b \u00a0 \ufeff
    <|startoftext|> <|endoftext|> a!<|endoftext|> <|ENDOFTEXT|> <|ſtartoftext|> <|mask|> </w> \x07 \x1c \u2028 \ufffd
    """.split(" ")  # noqa: SIM905
KNOWN = {"hello world!": [49406, 3306, 1002, 256, 49407], "jekyll": [49406, 49405, 49407], "": [49406, 49407]}


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer()


@pytest.fixture(scope="module")
def reference():
    return reference_tokenizer.Tokenizer(VOCABULARY)


def mixed_texts(count):
    draw = random.Random(7)
    for _ in range(count):
        words = draw.choices(WORDS, k=draw.randint(1, 40))
        text = "".join(word + draw.choice([" ", " ", "", "  ", "\n", "\t\r\n"]) for word in words)
        yield draw.choice([str, str.upper, str.title])(text)


def assert_same(tokenizer, reference, texts):
    texts = list(texts)
    for text, ours, theirs in zip(texts, tokenizer(texts), reference(texts), strict=True):
        assert ours.tolist() == list(theirs), repr(text)


@pytest.mark.parametrize("text", KNOWN)
def test_known_ids(tokenizer, text):
    ids = tokenizer(text)
    assert (ids.shape, ids.dtype) == ((1, 77), np.int32)
    assert ids[0].tolist() == KNOWN[text] + [0] * (77 - len(KNOWN[text]))


def test_same_ids_as_the_reference(tokenizer, reference):
    assert_same(tokenizer, reference, [*WORDS, *mixed_texts(400)])


def test_same_ids_on_short_strings_of_awkward_characters(tokenizer, reference):
    parts = ["'", "s", "ll", "<|endoftext|>", "!", " ", "1", "é"]
    assert_same(tokenizer, reference, map("".join, itertools.product(parts, repeat=3)))


def test_same_ids_in_every_alphabet(tokenizer, reference):
    draw = random.Random(3)
    blocks = [range(0x20, 0x250), range(0x370, 0x600), range(0x900, 0xE80), range(0x2000, 0x2C00),
              range(0x3040, 0x3100), range(0x4E00, 0x9FA6), range(0xAC00, 0xD7A4), range(0x1F300, 0x1F650)]  # fmt: skip
    # Only long-known characters: what a recent one is depends on the Unicode version of the pattern library.
    known = [chr(code) for block in blocks for code in block if ucd_3_2_0.category(chr(code)) != "Cn"]
    texts = ("".join(draw.choices(known, k=20)) for _ in range(150))
    assert_same(tokenizer, reference, texts)


def test_same_ids_on_real_captions(tokenizer, reference):
    entries = json.loads((real_data() / "CUHK-PEDES" / "reid_raw.json").read_text())
    assert_same(tokenizer, reference, dict.fromkeys(text for entry in entries for text in entry["captions"]))


def test_long_text_is_cut_and_ends_with_the_end_token(tokenizer):
    ids = tokenizer("a man " * 100)[0]
    assert (ids[0], ids[-1]) == (tokenizer.start_token, tokenizer.end_token)
    assert set(ids[1:-1]) == {320, 786}
    exact = tokenizer("a " * 75)[0]
    assert exact[-1] == tokenizer.end_token and exact[-2] == 320


@pytest.mark.parametrize(
    "text", ["x" * 10_000, "🎒" * 10_000, "中文 " * 3333, "a. " * 3333, "'" * 10_000, "\ud800", "\0"]
)
def test_extreme_texts(tokenizer, text):
    ids = tokenizer(text)[0]
    assert tokenizer.end_token in ids
    assert ids.min() >= 0 and ids.max() < tokenizer.vocabulary_size


@pytest.mark.parametrize("size", [515, 16384])
def test_a_short_vocabulary_has_the_first_merges_only(size):
    tokenizer = Tokenizer(vocabulary_size=size)
    assert_same(tokenizer, reference_tokenizer.Tokenizer(VOCABULARY, size), [*WORDS, *mixed_texts(50)])
    assert tokenizer.decode(tokenizer("a sleeveless pullover")[0]) == "a sleeveless pullover"


def test_raw_captions_are_cleaned(tokenizer):
    clean = tokenizer("a man & a woman's bag")
    for raw in ["  A man\r\n&amp;  a\twoman’s bag\n", "a man &amp;amp; a woman&#39;s bag", "a man & a womanâ€™s bag"]:
        assert np.array_equal(tokenizer(raw), clean)


def test_special_strings_become_special_ids(tokenizer):
    ids = tokenizer("a <|startoftext|> b <|endoftext|> c")[0]
    assert ids.tolist()[:7] == [49406, 320, 49406, 321, 49407, 322, 49407]


def test_rows_do_not_depend_on_their_neighbours(tokenizer):
    texts = list(mixed_texts(20))
    assert np.array_equal(tokenizer(texts), np.concatenate([tokenizer(text) for text in texts]))
    assert np.array_equal(tokenizer(tuple(texts)), tokenizer(texts))
    assert tokenizer([]).shape == (0, 77)


def test_context_length():
    assert Tokenizer(8)("a man in red with a very long caption")[0, -1] == 49407
    assert Tokenizer(2)("a man").tolist() == [[49406, 49407]]
    with pytest.raises(ValueError, match="at least 2"):
        Tokenizer(1)
    with pytest.raises(ValueError, match="at least 515"):
        Tokenizer(8, 514)


def test_decode(tokenizer):
    text = "a man 's red t - shirt , 中文 🎒 café 1 2 jekyll"
    assert tokenizer.decode(tokenizer(text)[0]) == text
    assert tokenizer.decode([3306, 1002]) == "hello world"
    assert tokenizer.decode([]) == tokenizer.decode(tokenizer("")[0]) == ""
    for wrong in (49408, -1):
        with pytest.raises(ValueError, match=r"outside 0\.\.49407"):
            tokenizer.decode([wrong])


def test_ids_decode(tokenizer):
    assert all(isinstance(tokenizer.decode([token]), str) for token in range(0, 49408, 13))


@pytest.mark.parametrize("wrong", [[1], ["a", None], [["a"]], [b"a"]])
def test_non_strings_are_a_type_error(tokenizer, wrong):
    with pytest.raises(TypeError, match="a caption must be a string"):
        tokenizer(wrong)


def test_damaged_vocabulary(tmp_path):
    broken = tmp_path / "vocab.gz"
    with pytest.raises(DataError, match=r"vocab\.gz: .*cannot be read.*Fix"):
        read_merges(broken)
    broken.write_bytes(VOCABULARY.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"vocab\.gz: .*damaged: sha256 .*expected 924691ac.*Fix"):
        read_merges(broken)


def test_table_is_read_once(monkeypatch):
    Tokenizer()
    monkeypatch.setattr(module, "read_merges", lambda: pytest.fail("read again"))
    Tokenizer()("a man")


def test_survives_pickling(tokenizer):
    assert np.array_equal(pickle.loads(pickle.dumps(tokenizer))("a man"), tokenizer("a man"))


def test_this_part_of_the_package_needs_no_mindspore():
    code = (
        "import sys; import ms_unireid.data.tokenizer, ms_unireid.data.tri_pedes; sys.exit('mindspore' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(VOCABULARY.parents[2])}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_lengths_before_the_cut():
    tokenizer = Tokenizer(8)
    texts = ["", "a man", "red " * 20, "!" * 3]
    whole = Tokenizer(100)(texts)
    lengths = [row.index(49407) + 1 for row in whole.tolist()]
    assert tokenizer.lengths(texts) == lengths == [2, 4, 22, 3]


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("a man in red, café naïve 🧍 ½", None),
        ("Ａ ｍａｎ", None),
        ("红色外套", "红色外套"),
        ("🧍🟥", "🧍🟥"),
        ("1234 !", "1234 !"),
        ("a man with a красная bag", "красная"),
        ("\u200b", ""),
    ],
)
def test_notes_name_the_words_that_the_model_cannot_know(tokenizer, text, unknown):
    notes = tokenizer.notes(text)
    assert notes == [] if unknown is None else f"does not know “{unknown}" in notes[0]


SENTENCES = ("a man in a red coat.", "he has black shoes, and a bag.", "it is dr. smith!")


def texts_of(tokenizer, pieces) -> list[list[str]]:
    """Return the texts of each caption's rows."""
    found = [[] for _ in pieces.long]
    for caption, row in zip(pieces.captions, pieces.token_ids, strict=True):
        found[caption].append(tokenizer.decode(row))
    return found


def plain(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize("split", [False, True])
def test_captions_that_fit_are_rows_as_ever(tokenizer, split):
    texts = ["a man", "", " ".join(SENTENCES)]
    pieces = Tokenizer(split=split).pieces(texts)
    np.testing.assert_array_equal(pieces.token_ids, tokenizer(texts))
    assert pieces.captions.tolist() == [0, 1, 2] and not pieces.long.any()
    feats, rng = np.random.default_rng(1).random((3, 4), np.float32), np.random.default_rng(2)
    assert pieces.average(feats).tobytes() == feats.tobytes()
    np.testing.assert_array_equal(pieces.draw(rng), tokenizer(texts))
    assert Tokenizer(split=split).pieces([]).token_ids.shape == (0, 77)


def test_long_captions_are_cut_by_default():
    texts = ["a man", "red " * 90]
    pieces = Tokenizer().pieces(texts)
    np.testing.assert_array_equal(pieces.token_ids, Tokenizer()(texts))
    assert pieces.long.tolist() == [False, True]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" ".join(SENTENCES), [*SENTENCES[:1], "he has black shoes,", "and a bag.", "it is dr. smith!"]),
        ("a man in red.she has a bag", ["a man in red.", "she has a bag"]),
        ("1. red coat with buttons 2. black shoes", ["1. red coat with buttons 2.", "black shoes"]),
        ("he wears a red shirt and he has a black bag", ["he wears a red shirt", "and he has a black bag"]),
        ("a, b, c, d, e, f, g, h", ["a, b, c, d,", "e, f, g, h"]),
        ("red " * 17, ["red " * 8, "red " * 8, "red"]),
        ("红色外套。黑色鞋子。", ["红色外套。", "黑色鞋子。"]),
    ],
)
def test_long_captions_are_split_at_the_best_border(text, expected):
    tokenizer = Tokenizer(10 if "。" not in text else 14, split=True)
    pieces = tokenizer.pieces(["a man", text])
    found = texts_of(tokenizer, pieces)
    assert list(map(plain, found[1])) == list(map(plain, expected)) and found[0] == ["a man"]
    assert pieces.long.tolist() == [False, True]


def test_no_token_is_lost_or_invented():
    """The pieces hold all ids of the caption in their order, and each fits, whatever the text and the length."""
    texts = [
        *mixed_texts(60),
        "x" * 400,
        "红" * 200,
        "a!" * 90,
        "".join(chr(0x4E00 + i) for i in range(90)),
        "<|endoftext|>" * 30,
    ]
    for length in (3, 4, 9, 20):
        tokenizer, whole = Tokenizer(length, split=True), Tokenizer(2000)
        pieces = tokenizer.pieces(texts)
        for number, row in enumerate(whole(texts)):
            rows = pieces.token_ids[pieces.captions == number]
            parts = [part[1 : np.flatnonzero(part)[-1]].tolist() for part in rows]
            assert list(itertools.chain(*parts)) == row[1 : np.flatnonzero(row)[-1]].tolist()
            assert all(part[np.flatnonzero(part)[-1]] == tokenizer.end_token for part in rows)
            assert len(rows) == 1 or pieces.long[number]


def test_features_are_averaged_and_rows_are_drawn():
    pieces = Tokenizer(10, split=True).pieces(["a man", "red " * 17, "a bag"])
    feats = np.random.default_rng(1).random((5, 4), np.float32)
    found = pieces.average(feats)
    assert found.dtype == np.float32 and found[[0, 2]].tobytes() == feats[[0, 4]].tobytes()
    np.testing.assert_allclose(found[1], feats[1:4].mean(0), rtol=1e-6)
    drawn = [pieces.draw(np.random.default_rng(seed)) for seed in range(300)]
    rows = pieces.token_ids[[[0, place, 4] for place in (1, 2, 3)]]
    counts = [sum(np.array_equal(one, row) for one in drawn) for row in rows[[0, 2]]]
    assert 70 < counts[1] < 130 and counts[0] > 170  # the first two of the three rows are alike
    np.testing.assert_array_equal(drawn[7], pieces.draw(np.random.default_rng(7)))


def test_notes_say_that_a_text_is_read_in_parts():
    assert Tokenizer(10, split=True).notes("a man") == []
    (note,) = Tokenizer(10, split=True).notes("red " * 17)
    assert "reads 8 tokens at once: its 3 parts" in note
    (note,) = Tokenizer(10).notes("red " * 17)
    assert "reads the first 8 tokens, up to" in note
