"""Damaged caption files give the entries that Python's json reads, or are refused."""

import json

import pytest
from fuzz.fuzzing import damaged, outcome, tries
from hypothesis import given

from ms_unireid.data.tri_pedes import DATASETS, read_tri_pedes

_ENTRIES = [
    {
        "split": split,
        "id": person,
        "file_path": f"a/{person}_{split}.png",
        "captions": ["A man in a red coat.", "Füße 红"],
    }
    for person, split in enumerate(["train", "train", "val", "test"], 1)
]
_FILES = {
    "plain": json.dumps(_ENTRIES).encode(),
    "indented": json.dumps(_ENTRIES, indent=1, ensure_ascii=False).encode(),
    "marked": b"\xef\xbb\xbf" + json.dumps(_ENTRIES).encode(),
}


def _read(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "CUHK-PEDES"
    (folder / "imgs").mkdir(parents=True, exist_ok=True)
    (folder / DATASETS["cuhk_pedes"].annotation_files[0]).write_bytes(data)
    tri = outcome(read_tri_pedes, "cuhk_pedes", folder)
    if tri is not None:
        expected = json.loads(data.decode("utf-8-sig"))
        assert [int(entry["id"]) for entry in expected] == [entry.person_id for entry in tri.entries]
        for entry, ours in zip(expected, tri.entries, strict=True):
            assert entry["captions"] == list(ours.captions)
            assert entry["split"].strip().lower() == ours.split or ours.split == "val"
    return tri


@pytest.mark.parametrize("name", _FILES)
def test_a_whole_caption_file(tmp_path_factory, name):
    assert _read(tmp_path_factory, _FILES[name]) is not None


@tries(500)
@given(damaged(_FILES))
def test_a_damaged_caption_file(tmp_path_factory, found):
    _read(tmp_path_factory, found[1])
