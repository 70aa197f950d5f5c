"""What a file says is shown on one line, without control characters, and cut."""

import pytest

from ms_unireid.errors import escaped, shown


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a.b", "'a.b'"),
        ("naïve", "'naïve'"),
        ("a\n\x1b[2K", r"'a\n\x1b[2K'"),
        ("\u202eb\ud83d", r"'\u202eb\ud83d'"),
        (["x", 5], "['x', 5]"),
    ],
)
def test_values_are_quoted_on_one_line(value, text):
    assert shown(value) == text
    assert shown(value).encode("utf-8")


def test_plain_names_stay_and_others_are_escaped():
    assert escaped("base_model.visual.é") == "base_model.visual.é"
    assert escaped("a\nb\x9b\u2066\ud83d") == r"a\nb\x9b\u2066\ud83d"


def test_long_values_are_cut():
    endless = []
    endless.append(endless)
    for value in ("x" * 10**7, "\x1b" * 10**7, ["y" * 10**6] * 10**5, {"k" * 10**6: [[["z"]]]}, 16**9999, endless):
        assert len(shown(value)) <= 300
    assert escaped("x" * 10**7, 8) == "xxxxx..."
