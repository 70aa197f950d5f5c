"""The reader of the three Tri data sets: files it reads, tolerates and refuses."""

import json
import os

import pytest
from data.tri_factory import build, entry, put_picture, real_data, touch, usual_entries

from ms_unireid.config import load_config
from ms_unireid.data import folders, tri_pedes
from ms_unireid.data.annotations import Annotation, Pair, training_pairs
from ms_unireid.data.evaluation_sets import load_evaluation_set
from ms_unireid.data.pictures import list_files
from ms_unireid.data.tri_pedes import DATASETS, find_root, read_tri_pedes
from ms_unireid.errors import DataError

NAME = "cuhk_pedes"


def load(root, splits=("train",), name=NAME, **options):
    return read_tri_pedes(name, root).annotations(splits, **options)


@pytest.mark.parametrize("name", DATASETS)
def test_happy_path(tmp_path, name):
    folder, layout = build(tmp_path, name), DATASETS[name]
    found = load(tmp_path, layout.splits, name)
    assert tuple(found) == layout.splits == read_tri_pedes(name, tmp_path).splits
    first = layout.first_train_identity
    assert found["train"][2] == Annotation(
        first + 1,
        folder / "imgs/cam/2.jpg",
        {"sketch": (folder / layout.sketch_folder / "cam/2.jpg",)},
        ("man 2", "boy 2"),
    )
    assert [row.photo.name for row in found["train"]] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert len(found["test"]) == 1
    assert found["train"][0].photo.is_file() and found["train"][0].pictures["sketch"][0].is_file()


def test_training_pairs_are_one_per_caption(tmp_path):
    folder = build(tmp_path, NAME)
    pairs = training_pairs(load(tmp_path)["train"])
    assert [pair.caption for pair in pairs[:3]] == ["man 0", "boy 0", "man 1"]
    assert len(pairs) == 8
    assert pairs[1] == Pair(1, folder / "imgs/cam/0.jpg", ((folder / "imgs-sketch2/cam/0.jpg",),), "boy 0")


def test_root_may_be_the_folder_or_its_parent(tmp_path):
    folder = build(tmp_path, NAME)
    assert find_root(NAME, tmp_path) == find_root(NAME, folder) == folder
    renamed = folder.rename(tmp_path / "renamed")
    assert find_root(NAME, renamed) == renamed
    assert len(load(renamed)["train"]) == 4


@pytest.mark.parametrize("prefix", ["", "imgs", "CUHK-PEDES", "CUHK-PEDES/imgs"])
def test_sketch_archive_layouts(tmp_path, prefix):
    folder = build(tmp_path, NAME, sketch_prefix=prefix)
    sketch = load(tmp_path)["train"][0].pictures["sketch"][0]
    assert sketch == folder / "imgs-sketch2" / prefix / "cam/0.jpg"
    assert sketch.is_file()


def test_sketch_may_have_another_extension(tmp_path):
    entries = [entry(NAME, "train", 1, "a.jpg.jpg"), entry(NAME, "train", 1, "b.bmp"), entry(NAME, "train", 1, "c.png")]
    folder = build(tmp_path, NAME, entries)
    sketches = folder / "imgs-sketch2"
    (sketches / "a.jpg.jpg").rename(sketches / "a.jpg.png")
    (sketches / "b.bmp").rename(sketches / "b.jpg")
    assert [row.pictures["sketch"][0].name for row in load(tmp_path)["train"]] == ["a.jpg.png", "b.jpg", "c.png"]


def test_another_photos_sketch_is_never_borrowed(tmp_path):
    folder = build(tmp_path, NAME, [entry(NAME, "train", 1, "a.jpg"), entry(NAME, "train", 2, "a.png")])
    (folder / "imgs-sketch2" / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"sketches of 1 of 2 photos are missing.*a\.jpg"):
        load(tmp_path)


def test_quirks_of_the_published_files(tmp_path):
    raw = ("  edge space \r\n", "中文 caption\n", "shared", "fourth")
    entries = [
        entry(NAME, "train", "1", "test/0627/a.jpg.jpg", raw),
        entry(NAME, "train", 2, "Market/b.bmp", ("shared",)),
        entry(NAME, "valid", 3, "Market/c.png", tuple(f"caption {i}" for i in range(10))),
    ]
    build(tmp_path, NAME, entries)
    found = load(tmp_path, ("val", "train"))
    assert list(found) == ["val", "train"]
    assert found["train"][0].captions == raw
    assert [row.person_id for row in found["train"]] == [1, 2]
    assert len(found["val"][0].captions) == 10
    assert read_tri_pedes(NAME, tmp_path).splits == ("train", "val")


def test_icfg_file_name_variant_and_byte_order_mark(tmp_path):
    folder = build(tmp_path, "icfg_pedes")
    text = (folder / "ICFG-PEDES.json").read_text()
    (folder / "ICFG-PEDES.json").unlink()
    (folder / "ICFG_PEDES.json").write_text(text, encoding="utf-8-sig")
    assert len(load(tmp_path, ("train", "test"), "icfg_pedes")["train"]) == 4


def test_files_of_other_splits_need_not_be_there(tmp_path):
    folder = build(tmp_path, NAME)
    (folder / "imgs/cam/0.jpg").unlink()
    assert len(load(tmp_path, ("test",))["test"]) == 1


def test_linked_photo_folder(tmp_path):
    folder = build(tmp_path, NAME)
    (folder / "imgs/cam").rename(tmp_path / "disk2")
    (folder / "imgs/cam").symlink_to(tmp_path / "disk2")
    assert len(load(tmp_path)["train"]) == 4


def test_identity_gaps_can_be_allowed(tmp_path):
    build(tmp_path, NAME, [entry(NAME, "train", person, f"{person}.jpg") for person in (1, 2, 5)])
    with pytest.raises(DataError, match=r"reid_raw\.json.*first gap is at 3.*Fix: .*data\.allow_identity_gaps=true"):
        load(tmp_path)
    assert [row.person_id for row in load(tmp_path, allow_identity_gaps=True)["train"]] == [1, 2, 5]


def test_identity_below_the_first(tmp_path):
    build(tmp_path, NAME, [entry(NAME, "train", person, f"{person}.jpg") for person in (0, 1)])
    with pytest.raises(DataError, match="identities from 0 on, expected the numbers 1 to 2; the first gap is at 2"):
        load(tmp_path)


@pytest.mark.parametrize("splits", [("val",), ("train", "dev"), "val"])
def test_absent_split_names_those_that_exist(tmp_path, splits):
    build(tmp_path, "icfg_pedes")
    with pytest.raises(DataError, match=r"ICFG-PEDES\.json: no annotation .*Fix: .*train, test"):
        load(tmp_path, splits, "icfg_pedes")


def test_unknown_data_set(tmp_path):
    with pytest.raises(DataError, match=r"'cuhk'.*cuhk_pedes, icfg_pedes, rstp_reid"):
        load(tmp_path, name="cuhk")


@pytest.mark.parametrize("make", [False, True])
def test_missing_root(tmp_path, make):
    root = tmp_path / "data"
    if make:
        touch(root / "other.zip")
    with pytest.raises(DataError, match=r"data: expected the folder CUHK-PEDES/.*(no such folder|other\.zip).*Fix"):
        load(root)


def test_missing_annotation_file_lists_what_is_there(tmp_path):
    folder = build(tmp_path, NAME)
    (folder / "reid_raw.json").rename(folder / "reid_raw.json.part")
    with pytest.raises(DataError, match=r"reid_raw\.json is missing; .*imgs/.*reid_raw\.json\.part.*Fix"):
        load(tmp_path)


def test_caption_all_is_explained(tmp_path):
    folder = build(tmp_path, NAME)
    (folder / "reid_raw.json").rename(folder / "caption_all.json")
    for root in (tmp_path, folder):
        with pytest.raises(DataError, match=r"caption_all\.json.*no split.*identities differently.*Fix: ask"):
            load(root)


DAMAGED = {
    '[{"split": "train", "capt': "truncated or damaged",
    "": "truncated or damaged",
    "[" * 100_000: "truncated or damaged",
    '[{"id": ' + "9" * 5000 + "}]": "truncated or damaged|key 'split'",
    '{"split": "train"}': "expected a JSON list.*found a JSON object",
    "[]": "an empty list",
    "[3]": "entry 0: expected an object, found int",
    "[NaN]": "NaN is not a number of JSON",
    '[{"id": -Infinity}]': "-Infinity is not a number of JSON",
    '[{"id": 1, "id": 2}]': "key 'id' appears twice",
    f'[{{"{"k" * 10**6}": 1, "{"k" * 10**6}": 2}}]': "appears twice",
}


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_damaged_annotation_file(tmp_path, text):
    (build(tmp_path, NAME) / "reid_raw.json").write_text(text)
    with pytest.raises(DataError, match=rf"reid_raw\.json.*({DAMAGED[text]}).*Fix: ") as caught:
        read_tri_pedes(NAME, tmp_path)
    assert len(str(caught.value)) < 1000


def test_annotation_file_in_another_encoding(tmp_path):
    (build(tmp_path, NAME) / "reid_raw.json").write_bytes('["é"]'.encode("utf-16"))
    with pytest.raises(DataError, match=r"reid_raw\.json: not UTF-8 text \(UTF-16"):
        load(tmp_path)


def test_a_caption_file_that_is_no_file(tmp_path):
    file = build(tmp_path, NAME) / "reid_raw.json"
    file.unlink()
    file.symlink_to("/dev/zero")
    with pytest.raises(DataError, match=r"reid_raw\.json.*Fix: "):
        load(tmp_path)


def test_a_gigantic_caption_file(tmp_path):
    os.truncate(build(tmp_path, NAME) / "reid_raw.json", 1 << 33)
    with pytest.raises(DataError, match=r"reid_raw\.json: larger than 1024 MiB"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("written", "split"), [("Train", "train"), (" TEST ", "test"), ("Val", "val"), ("valid", "val")]
)
def test_split_names_are_recognised(tmp_path, written, split):
    build(tmp_path, NAME, [entry(NAME, written, 1, "a.jpg")])
    assert read_tri_pedes(NAME, tmp_path).splits == (split,)


@pytest.mark.parametrize("written", ["cam\\0.jpg", " cam/0.jpg ", "./cam//0.jpg\t", ".\\cam\\0.jpg"])
def test_paths_of_other_systems(tmp_path, written):
    build(tmp_path, NAME)
    entries = [entry(NAME, "train", 1, written)]
    (tmp_path / "CUHK-PEDES/reid_raw.json").write_text(json.dumps(entries), encoding="utf-8")
    assert load(tmp_path)["train"][0].photo == tmp_path / "CUHK-PEDES/imgs/cam/0.jpg"


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("imgs/cam/0.jpg", "1 begin with imgs/, the photo folder itself: remove it from the paths"),
        ("CAM/0.jpg", "1 differ only in extension, letter case or Unicode form: rename"),
        ("caf\u00e9.jpg", "1 differ only in extension, letter case or Unicode form: rename"),
    ],
)
def test_nearly_the_name_of_a_photo(tmp_path, written, words):
    build(tmp_path, NAME, [entry(NAME, "train", 1, "cam/0.jpg"), entry(NAME, "train", 1, "cafe\u0301.jpg")])
    entries = [entry(NAME, "train", 1, written)]
    (tmp_path / "CUHK-PEDES/reid_raw.json").write_text(json.dumps(entries), encoding="utf-8")
    with pytest.raises(DataError, match=f"Fix: {words}") as caught:
        load(tmp_path)
    assert "incomplete" not in str(caught.value)


def test_a_data_set_without_a_train_split_is_for_evaluation(tmp_path):
    build(tmp_path, NAME, usual_entries(NAME)[4:])
    with pytest.raises(DataError, match=r"split 'train'\. Fix: .* evaluation only \(val, test\); train on another"):
        load(tmp_path)
    assert len(load(tmp_path, ("val",))["val"]) == 1


WRONG = [
    ("split", None, "'split' is missing.*caption_all"),
    ("id", None, "'id' is missing"),
    ("file_path", None, "'file_path' is missing"),
    ("captions", None, "'captions' is missing"),
    ("split", 1, "the split 1 is not known"),
    ("split", "testing", r"split 'testing' is not known, expected one of train, val, test"),
    ("split", "", r"split '' is not known"),
    ("id", "1" * 5000, "'id' must be an integer"),
    ("id", ["x" * 10**6], "'id' must be an integer"),
    ("file_path", "a\0.jpg", "path must be a string"),
    ("file_path", "\udcff.jpg", "path must be a string"),
    ("file_path", "\\", "path must be a string"),
    (
        "captions",
        ["half a pair \ud83d"],
        r"must be Unicode text that is not blank, found 'half a pair \\ud83d'",
    ),
    ("captions", ["a\0b"], "a caption must be Unicode text"),
    ("captions", ["\x1b[2K" * 10**5, "\u2028"], "not blank"),
    ("id", "12a", "'id' must be an integer"),
    ("id", -1, "'id' must be an integer"),
    ("id", True, "'id' must be an integer"),
    ("id", 1.0, "'id' must be an integer"),
    ("id", 2**40, "'id' must be an integer"),
    ("file_path", 5, "path must be a string"),
    ("file_path", " ", "path must be a string"),
    ("file_path", "./", "path must be a string"),
    ("file_path", "/etc/passwd", "leaves the photo folder"),
    ("file_path", "../../x.jpg", "leaves the photo folder"),
    ("file_path", "cam/../../x.jpg", "leaves the photo folder"),
    ("file_path", "cam\\..\\..\\x.jpg", "leaves the photo folder"),
    ("file_path", "C:\\x.jpg", "leaves the photo folder"),
    ("file_path", "C:x.jpg", "leaves the photo folder"),
    ("file_path", "\\\\host\\x.jpg", "leaves the photo folder"),
    ("captions", [], "at least one caption"),
    ("captions", "a man", "at least one caption"),
    ("captions", ["a man", " \r\n"], "not blank"),
    ("captions", [None], "not blank"),
]


@pytest.mark.parametrize(("key", "value", "message"), WRONG)
def test_malformed_entry(tmp_path, key, value, message):
    entries = usual_entries(NAME)
    entries[2][key] = value
    if value is None:
        del entries[2][key]
    build(tmp_path, NAME, entries)
    with pytest.raises(DataError, match=rf"reid_raw\.json, entry 2: .*{message}.*Fix: "):
        load(tmp_path)


@pytest.mark.parametrize("again", ["cam/0.jpg", "./cam//0.jpg"])
def test_duplicate_photo(tmp_path, again):
    build(tmp_path, NAME, [*usual_entries(NAME), entry(NAME, "train", 1, again)])
    with pytest.raises(DataError, match=r"entry 6: the photo cam/0\.jpg is already in entry 0.*Fix"):
        load(tmp_path)


def test_missing_photo_folder(tmp_path):
    folder = build(tmp_path, NAME)
    (folder / "imgs").rename(folder / "images")
    with pytest.raises(DataError, match=r"imgs: the photo folder is missing; .*images/.*Fix: unpack"):
        load(tmp_path)


def test_missing_photos_are_counted_by_sub_folder(tmp_path):
    entries = [entry(NAME, "train", i + 1, f"{'Market' if i % 2 else 'cam_a'}/{i}.jpg") for i in range(20)]
    folder = build(tmp_path, NAME, entries)
    for i in [0, *range(1, 20, 2)]:
        (folder / "imgs" / entries[i]["file_path"]).unlink()
    with pytest.raises(DataError, match=r"11 of 20 photos .*cam_a 1 of 10, Market 10 of 10.*and 6 more.*Fix"):
        load(tmp_path)


def test_letter_case_of_names_counts(tmp_path):
    folder = build(tmp_path, NAME)
    (folder / "imgs/cam/0.jpg").rename(folder / "imgs/cam/0.JPG")
    with pytest.raises(DataError, match=r"1 of 4 photos .*cam/0\.jpg.*letter case"):
        load(tmp_path)


def test_missing_sketch_folder(tmp_path):
    folder = build(tmp_path, NAME)
    (folder / "imgs-sketch2").rename(folder / "imgs-sketch")
    with pytest.raises(DataError, match=r"imgs-sketch2: the sketch folder is missing; .*imgs-sketch/.*build_sketches"):
        load(tmp_path)


def test_missing_sketches(tmp_path):
    folder = build(tmp_path, NAME)
    (folder / "imgs-sketch2/cam/1.jpg").unlink()
    with pytest.raises(DataError, match=r"sketches of 1 of 4 photos .*cam 1 of 4.*cam/1\.jpg.*Fix: .*build_sketches"):
        load(tmp_path)


def test_training_and_evaluation_read_the_caption_file_once(tmp_path, monkeypatch):
    from ms_unireid.training.run_data import RunData

    build(tmp_path, NAME, put=put_picture)
    read, config = [], load_config(None, [f"data.root={tmp_path}", "eval.splits=[val,test]", "data.batch_size=2"])
    monkeypatch.setattr(folders, "read_text", lambda file, fix: read.append(file) or file.read_text())
    data = RunData(config)
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 4, "val": 1, "test": 1}
    assert [file.name for file in read] == ["reid_raw.json"]
    assert len(load_evaluation_set(config.data, "test").photos) == 1
    assert [file.name for file in read] == ["reid_raw.json"] * 2


def test_several_checkpoints_share_one_reading(tmp_path, monkeypatch):
    from ms_unireid.evaluation import checkpoint_evaluation

    class Evaluator:
        def __init__(self, *arguments):
            self.config = load_config()

        def evaluate(self, split, protocol, data, reranked, load, rates=None):
            return len(load(data, split).photos)

    targets = []
    for name in ("icfg_pedes", "rstp_reid"):
        build(tmp_path, name, put=put_picture)
        targets.append(f"{name}={tmp_path}")
    read = []
    monkeypatch.setattr(folders, "read_text", lambda file, fix: read.append(file) or file.read_text())
    monkeypatch.setattr(checkpoint_evaluation, "CheckpointEvaluator", Evaluator)
    monkeypatch.setattr(checkpoint_evaluation, "open_source", lambda path: None)
    assert [*checkpoint_evaluation.evaluate_checkpoints(["a", "b"], targets)] == [1, 1, 1, 1]
    assert len(read) == 2


def test_one_listing_serves_many_files(tmp_path, monkeypatch):
    folder = build(tmp_path, "rstp_reid", [entry("rstp_reid", "train", i, f"{i}.jpg") for i in range(200)])
    listed, looked_up = [], []
    monkeypatch.setattr(tri_pedes, "list_files", lambda place: listed.append(place) or list_files(place))
    monkeypatch.setattr(os, "stat", lambda *place, stat=os.stat, **how: looked_up.append(place) or stat(*place, **how))
    assert len(load(folder, name="rstp_reid")["train"]) == 200
    assert len(listed) == 2 and len(looked_up) < 50


def test_real_slice():
    found = load(real_data(), ("train", "val", "test"))
    counts = {
        split: (len({row.person_id for row in rows}), len(rows), len(training_pairs(rows)))
        for split, rows in found.items()
    }
    assert counts == {"train": (213, 851, 1702), "val": (83, 332, 664), "test": (80, 320, 640)}
    assert all(row.pictures["sketch"][0].is_file() for row in found["test"])
