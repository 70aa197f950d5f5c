"""Captions by person: the two file formats, and files that are refused."""

import json

import pytest

from ms_unireid.data.sketch_sets import read_person_captions
from ms_unireid.errors import DataError


def write(folder, text, name="captions.json"):
    file = folder / name
    file.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    return file


def test_json_by_identity(tmp_path):
    file = write(tmp_path, {"12": [" A man\r\n"], "3": ["A woman.", "穿红衣"]})
    assert read_person_captions(file, [12, 3]) == {3: ("A woman.", "穿红衣"), 12: (" A man\r\n",)}
    assert [*read_person_captions(file, [12, 3])] == [3, 12]


def test_the_text_file_of_the_field(tmp_path):
    file = write(tmp_path, "3/3_05_1.jpg@A man in red.\r\n3/3_06_2.jpg@He carries a bag.\n\n12/x@B\n", "TriReID.txt")
    assert read_person_captions(file, [3, 12]) == {3: ("A man in red.", "He carries a bag."), 12: ("B",)}


def test_a_file_may_cover_more_than_is_wanted(tmp_path):
    file = write(tmp_path, {"1": ["a"], "2": ["b"]})
    assert read_person_captions(file, [2], known=[1, 2]) == {2: ("b",)}


WRONG = {
    "{": "truncated or damaged",
    "[]": r"expected JSON such as .*found a JSON list",
    "{}": r"expected JSON such as .*found an empty object",
    '{"1": ["a"], "1": ["b"]}': "the key '1' appears twice",
    '{"1": ["a"], "01": ["b"], "2": ["c"]}': "identity 1 occurs twice",
    '{"x": ["a"]}': "'x'.*must be an integer",
    '{"-1": ["a"]}': "'-1'.*must be an integer",
    '{"1": "a", "2": ["b"]}': "'1'.*a list of at least one caption",
    '{"1": [], "2": ["b"]}': "'1'.*a list of at least one caption",
    '{"1": ["a", " \\n"], "2": ["b"]}': "'1'.*not blank",
    '{"1": ["a"], "2": [3]}': "'2'.*not blank",
    '{"1": ["a"], "2": ["b"], "7": ["c"], "8": ["d"]}': "captions of 2 identities that .* not have: 7, 8",
    '{"2": ["b"]}': "1 of 2 identities have no caption: 1",
}


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_refused(tmp_path, text):
    with pytest.raises(DataError, match=rf"captions\.json.*{WRONG[text]}.*Fix: "):
        read_person_captions(write(tmp_path, text), [1, 2])


@pytest.mark.parametrize("line", ["A man in red.", "x/y@A man.", "3/a@", "3/a@ ", "@A man."])
def test_refused_lines(tmp_path, line):
    with pytest.raises(DataError, match=r"TriReID\.txt, line 2: expected IDENTITY/PHOTO@CAPTION.*Fix: "):
        read_person_captions(write(tmp_path, f"3/a@A man.\n{line}\n", "TriReID.txt"), [3])


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(DataError, match=r"none\.json: cannot be read .*Fix: "):
        read_person_captions(tmp_path / "none.json", [1])
    with pytest.raises(DataError, match=r"empty\.txt: 1 of 1 identities have no caption: .*Fix: "):
        read_person_captions(write(tmp_path, "\n", "empty.txt"), [1])
