"""People's own collections: the formats of their file, the rules for splits and gaps, and every refusal."""

import csv
import io
import json
from dataclasses import replace

import pytest
from data.tri_factory import build, put_distinct, put_picture

from ms_unireid.config import Config, ObjectiveConfig, load_config
from ms_unireid.data.annotations import training_pairs
from ms_unireid.data.evaluation_sets import load_evaluation_set
from ms_unireid.data.pairs import examine, present, read_captioned
from ms_unireid.data.photo_sets import dataset_photos
from ms_unireid.errors import DataError

ROWS = [
    {
        "split": "valid" if person == 3 else "test" if person == 4 else "train",
        "id": f"Ann {person}",
        "file_path": f"imgs/cam/{person}_{photo}.jpg",
        "caption": f"A man, number {person}; he walks.",
        "caption_2": f'He has a "{photo}" on his\ncoat.',
        "sketch": f"drawn/{person}_{photo}.jpg",
        "remark": "x",
    }
    for person in range(1, 5)
    for photo in range(2)
]


def without(key: str) -> list[dict]:
    return [{name: value for name, value in row.items() if name != key} for row in ROWS]


def to_csv(rows: list[dict], delimiter: str = ",") -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def make(root, text: str | list, name: str = "people.json"):
    """Write a collection's pictures and its file; return the data section of its config."""
    for row in ROWS:
        put_picture(root / row["file_path"])
        put_picture(root / row["sketch"])
    content = text if isinstance(text, str) else json.dumps(text)
    (root / name).write_text(content, encoding="utf-8", newline="")
    return config(root).data


def config(root, *overrides: str) -> Config:
    return load_config(None, ["data.name=pairs", f"data.root={root}", *overrides])


LISTS = [
    {"split": r["split"], "id": r["id"], "file_path": r["file_path"], "captions": [r["caption"], r["caption_2"]],
     "sketch": [r["sketch"]], "remark": [1, {}]}
    for r in ROWS
]  # fmt: skip
SAME = {
    "a.json": json.dumps(ROWS),
    "lists.JSON": json.dumps(LISTS),
    "a.jsonl": "\n\n".join(map(json.dumps, ROWS)),
    "a.csv": to_csv(ROWS),
    "excel.csv": "\ufeff" + to_csv([{key.upper(): value for key, value in row.items()} for row in ROWS], ";"),
}


def test_all_formats_say_the_same(tmp_path):
    loaded = []
    for name, text in SAME.items():
        read = read_captioned(make(tmp_path / name, text, name))
        assert read.splits == ("train", "val", "test") and not read.drawn
        assert read.notes() == [f"{read.file}: not read are the columns remark; data.modalities names pictures"]
        found = read.checked_annotations(read.splits)
        loaded.append(str(found).replace(str(tmp_path / name), "").replace("\\r\\n", "\\n"))
    assert len(set(loaded)) == 1
    first = found["train"][0]
    assert (first.person_id, first.photo) == (0, tmp_path / "excel.csv/imgs/cam/1_0.jpg")
    assert first.captions == (ROWS[0]["caption"], ROWS[0]["caption_2"])
    assert first.pictures == {"sketch": (tmp_path / "excel.csv/drawn/1_0.jpg",)}
    assert (
        len(training_pairs(found["train"])) == 8
        and len(load_evaluation_set(config(tmp_path / "a.csv").data, "test").captions) == 4
    )


def test_the_layout_of_cuhk_pedes_needs_no_code(tmp_path):
    folder = build(tmp_path, "cuhk_pedes", put=put_distinct)
    tri = read_captioned(load_config(None, [f"data.root={tmp_path}"]).data).annotations(("train", "test"), True)
    own = read_captioned(config(folder).data).checked_annotations(("train", "test"))
    assert {split: [replace(a, pictures={}) for a in rows] for split, rows in own.items()} == {
        split: [replace(a, pictures={}) for a in rows] for split, rows in tri.items()
    }


def test_splits_are_drawn_by_person(tmp_path):
    rows = [{"id": n // 2, "file_path": f"{n}.jpg", "caption": "A man."} for n in range(100)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "another.json").write_text("[]")

    def persons(*overrides: str) -> dict[str, set[str]]:
        read = read_captioned(config(tmp_path, *overrides).data)
        assert read.drawn and "data.split_seed: train" in read.notes()[0]
        return {split: {row.person for row in read.rows if row.split == split} for split in read.splits}

    usual = persons()
    assert [len(usual[split]) for split in ("train", "val", "test")] == [40, 5, 5]
    assert len(set.union(*usual.values())) == 50
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows[::-1])))
    assert persons() == usual != persons("data.split_seed=1")
    assert {split: len(found) for split, found in persons("data.split_shares=[0.5, 0, 0.5]").items()} == {
        "train": 25, "test": 25
    }  # fmt: skip
    with pytest.raises(DataError, match=r"has no splits, and an index .* Fix: add the column split, or index"):
        dataset_photos("pairs", tmp_path)


def test_numbers_stay_and_names_are_numbered(tmp_path):
    for ids, numbers in (([7, "3", 7], [7, 3, 7]), (["007", 7, "3"], [0, 1, 2]), ([1, "Zoë", " 1 "], [0, 1, 0])):
        rows = [{"id": one, "file_path": f"{place}.jpg"} for place, one in enumerate(ids)]
        (tmp_path / "pairs.json").write_text(json.dumps(rows))
        read = read_captioned(config(tmp_path).data)
        assert [read.numbers[row.person] for row in read.rows] == numbers
    make(tmp_path, ROWS, "pairs.json")
    photos = dataset_photos("pairs", tmp_path)
    assert photos.identities["imgs/cam/4_1.jpg"] == "Ann 4" and photos.splits["imgs/cam/4_1.jpg"] == "test"


def test_what_a_task_needs_decides_what_is_trained(tmp_path):
    rows = [dict(row) for row in ROWS]
    rows[0]["sketch"] = None
    rows[1] |= {"caption": "", "caption_2": " "}
    make(tmp_path, rows)

    def trained(*tasks: str, modalities: tuple[str, ...] = ("sketch",)) -> list[list[bool]]:
        (train,) = read_captioned(config(tmp_path).data).checked_annotations(["train"]).values()
        usual = config(tmp_path)
        data, objective = replace(usual.data, modalities=modalities), ObjectiveConfig(tasks=tasks)
        pairs = training_pairs(train, modalities)
        return present(pairs, replace(usual, data=data, objective=objective)).T.tolist()

    # The first photo has two captions and no sketch, the second a sketch and no caption.
    text, sketch = [True, True, False, True, True, True, True], [False, False, True, True, True, True, True]
    assert trained("text", "sketch") == [text, sketch]
    assert trained("fusion", "text") == [[False, False, False, True, True, True, True], text]
    words = (
        r"no training photo has all that the task text\+pencil .*; of 7 pairs there lack text 1, pencil 7\. Fix: add"
    )
    with pytest.raises(DataError, match=words):
        trained("text", "text+pencil", modalities=("pencil",))
    rows[0] |= {"caption": "", "caption_2": ""}
    make(tmp_path, rows)
    with pytest.raises(DataError, match=r"1 training persons have no caption; .*1_0\.jpg\. Fix: write at least one"):
        trained("text")
    assert trained("sketch") == [[False, True, True, True, True, True]]


def changed(place: int, **values: object) -> list[dict]:
    return [row | values if number == place else row for number, row in enumerate(ROWS)]


DAMAGED = [
    ("a.json", "", "not valid JSON"),
    ("a.json", "[]", "expected a JSON list .*, found an empty list"),
    ("a.json", [1, *ROWS], "malformed rows: 1 .entry 0: expected an object, found int"),
    ("a.json", without("id"), "malformed rows: 8 .entry 0: expected one 'id', found none"),
    ("a.json", without("file_path"), "expected one 'file_path', found none"),
    ("a.json", changed(2, id=[1, 2]), r"entry 2: expected one 'id', found \[1, 2\]"),
    ("a.json", changed(2, id=1.5), "entry 2: 'id' must be a whole number or a text, found 1.5"),
    ("a.json", changed(2, split="tests"), "entry 2: the split 'tests' is not known"),
    ("a.json", changed(2, split=""), "rows without a split: 1 .entry 2.*give one to every row, or to none"),
    ("a.json", changed(2, split="test"), "persons in several splits: 1 .Ann 2 in test and train"),
    ("a.json", changed(2, file_path="imgs/cam/1_0.jpg"), "photos in several rows: 1 .entry 2: .* is already in"),
    ("a.json", changed(2, file_path="../x.jpg"), "entry 2: the photo's path '../x.jpg' leaves the photo folder"),
    ("a.json", changed(2, sketch="/etc/x.jpg"), "entry 2: the sketch's path '/etc/x.jpg' leaves the sketch folder"),
    ("a.json", changed(2, caption=7), "entry 2: a caption must be Unicode text"),
    ("a.csv", to_csv(changed(2, caption="['A man.', 'He.']")), "a list in a text.*caption, caption_2"),
    ("a.json", changed(2, file_path="imgs/cam/2_0.JPG"), "column file_path that do not exist, .* 1 of 6: 1 .*rename 1"),
    ("a.json", changed(2, sketch="drawn/no.jpg"), "column sketch that do not exist, drawn 1 of 6: 1 .drawn/no"),
    ("a.jsonl", '{"id": 1, "file_path": "x.jpg"}\n{"id": 1', "after line 1: not valid jsonl"),
    ("a.csv", "", "found an empty file"),
    ("a.csv", "id,file_path,id\n", "two columns are called 'id'"),
    ("a.csv", "id,file_path,caption\n1,x.jpg,A man, in red.\n", "4 cells for 3 columns; put texts into double quotes"),
    ("a.csv", 'id,file_path\n1,"x', "after line .*: not valid csv"),
    ("a.csv", "id,file_path\n\n", "no annotation belongs to split 'train'"),
    ("a.txt", "x", r"expected one file that ends in \.json, \.jsonl, \.csv.*found none; .*Fix: call yours pairs\.csv"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "words"), DAMAGED)
def test_what_is_wrong_is_one_line(tmp_path, name, content, words):
    data = make(tmp_path, content, name)
    with pytest.raises(DataError, match=words) as raised:
        read_captioned(data).checked_annotations(["train", "val"])
    assert str(tmp_path) in str(raised.value) and "Fix: " in str(raised.value) and "\n" not in str(raised.value)


def test_a_damaged_picture_and_several_files_are_refused(tmp_path):
    data = make(tmp_path, ROWS)
    (tmp_path / "drawn/2_0.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1 of 12 pictures cannot be used\. .*2_0\.jpg: not a picture"):
        read_captioned(data).checked_annotations(["train", "val"])
    (tmp_path / "b.csv").write_text("x")
    with pytest.raises(DataError, match=r"found several: b\.csv, people\.json"):
        read_captioned(data)
    assert examine(replace(data, annotations=str(tmp_path / "people.json")))[1] == []
    with pytest.raises(DataError, match=r"x\.xls: expected a file that ends in"):
        read_captioned(replace(data, annotations="x.xls"))
    with pytest.raises(DataError, match="no such folder"):
        read_captioned(replace(data, root=str(tmp_path / "none")))
