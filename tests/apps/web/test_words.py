"""The words of the page: every one is in the Chinese table, and the browser's language chooses."""

import ast
import re
import string
from pathlib import Path

import pytest

from ms_unireid.apps.web import words

FOLDER = Path(words.__file__).parent


def texts() -> set[str]:
    """Return the texts that the page's modules translate."""
    found = set()
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("t", "_icon", "_section", "_button"):
                found |= {one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and _is_text(one.value)}
    return found


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(re.search("[A-Z]|[a-z] ", value)) and "=>" not in value


def test_every_word_has_a_translation():
    assert len(texts()) > 60
    assert sorted(texts() - words._CHINESE.keys()) == []


def test_every_translation_is_used():
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.py")]
    said = {node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert sorted(words._CHINESE.keys() - said) == []


@pytest.mark.parametrize("text", sorted(words._CHINESE))
def test_a_translation_has_the_same_values(text):
    def fields(of: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(of) if name}

    assert fields(words._CHINESE[text]) == fields(text)
    assert re.search("[\u4e00-\u9fff]", words._CHINESE[text])


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh-CN"), ("en-US,en;q=0.9,zh;q=0.8", "en-GB"), ("de,zh-TW;q=0.7", "zh-CN"),
        ("fr", "en-GB"), ("", "en-GB"), ("zh;q=0", "en-GB"), ("en;q=0.1, zh;q=0.2", "zh-CN"), ("zh;q=x", "en-GB"),
        ("," * 5000, "en-GB"), ("ZH-hans", "zh-CN"), ("zhx", "en-GB"),
    ],
)  # fmt: skip
def test_the_browser_chooses_the_language(accepted, language):
    assert words.language_of(accepted) == language


def test_outside_a_page_the_words_are_english():
    assert words.t("Search") == "Search"
