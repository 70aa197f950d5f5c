"""The synthetic Tri data set: layout, determinism, true captions, pictures, existing folders."""

import json
import re
import subprocess
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tool_runner import command, run_tool

from ms_unireid.apps.synthetic.captions import COLOUR_WORDS, NOUNS, caption_tokens, write_caption
from ms_unireid.apps.synthetic.dataset import SyntheticConfig, generate_tri_dataset
from ms_unireid.apps.synthetic.figure import Figure, draw_pose
from ms_unireid.apps.synthetic.person import Person, draw_people
from ms_unireid.errors import DataError

TOOL = "make_synthetic.py"
CONFIG = SyntheticConfig(train_identities=5, val_identities=2, test_identities=3, photos_per_identity=3, seed=7)
SMALL = ("--train-identities", "1", "--val-identities", "1", "--test-identities", "1", "--photos", "2")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return generate_tri_dataset(tmp_path_factory.mktemp("synthetic"), CONFIG)


@pytest.fixture(scope="module")
def records(dataset) -> list[dict]:
    return json.loads((dataset / "reid_raw.json").read_text(encoding="utf-8"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def colours_in(caption: str) -> set[str]:
    """Return the colours that a caption mentions, longest wording first ("dark blue" is not "blue")."""
    wordings = [(wording, name) for name, words in COLOUR_WORDS.items() for wording in words]
    found, text = set(), caption.lower()
    for wording, name in sorted(wordings, key=lambda pair: -len(pair[0])):
        text, times = re.subn(rf"\b{wording}\b", " ", text)
        if times:
            found.add(name)
    return found


def colours_of(person: Person) -> set[str]:
    return {getattr(person, f.name) for f in fields(person) if f.name.endswith(("_colour", "accent"))} - {""}


def test_layout_and_counts(dataset, records):
    assert dataset.name == "CUHK-PEDES"
    assert sorted(p.name for p in dataset.iterdir()) == ["imgs", "imgs-sketch2", "reid_raw.json", "synthetic.json"]
    assert len(records) == 10 * 3
    assert all(set(r) == {"split", "captions", "file_path", "processed_tokens", "id"} for r in records)
    assert all(len(r["captions"]) == len(r["processed_tokens"]) == 2 for r in records)
    assert len({r["file_path"] for r in records}) == len(records)


def test_identities_are_contiguous_train_then_val_then_test(records):
    ids = {split: sorted({r["id"] for r in records if r["split"] == split}) for split in ("train", "val", "test")}
    assert ids == {"train": [1, 2, 3, 4, 5], "val": [6, 7], "test": [8, 9, 10]}


def test_every_photo_has_a_readable_sketch(dataset, records):
    for record in records:
        with Image.open(dataset / "imgs" / record["file_path"]) as photo:
            photo.load()
        with Image.open(dataset / "imgs-sketch2" / record["file_path"]) as sketch:
            sketch.load()
        assert photo.mode == "RGB" and sketch.mode == "L" and photo.size == sketch.size


def test_sketches_are_shaded_figures_on_white(dataset):
    for path in (dataset / "imgs-sketch2").rglob("*.png"):
        sketch = np.asarray(Image.open(path))
        assert 0.04 < (sketch < 100).mean() < 0.55  # strokes and the darkest clothes
        assert 0.2 < (sketch > 235).mean() < 0.85  # paper
        rgb = np.asarray(Image.open(path).convert("RGB"))
        assert (rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 0] == rgb[..., 2]).all()


def test_pictures_of_one_identity_differ(dataset, records):
    for kind in ("imgs", "imgs-sketch2"):
        first, second = (np.asarray(Image.open(dataset / kind / r["file_path"]), float) for r in records[:2])
        assert np.abs(first - second).mean() > 1


def test_same_seed_same_bytes_whatever_the_workers(dataset, tmp_path):
    assert contents(generate_tri_dataset(tmp_path, CONFIG, workers=2)) == contents(dataset)


def test_another_seed_gives_other_people(tmp_path):
    configs = [SyntheticConfig(2, 0, 0, photos_per_identity=1, seed=seed) for seed in (1, 2)]
    one, two = (contents(generate_tri_dataset(tmp_path / str(c.seed), c)) for c in configs)
    assert one.keys() == two.keys() and all(one[name] != two[name] for name in one)


def test_people_are_unique_and_do_not_depend_on_the_count():
    people = draw_people(600, seed=1)
    assert len(set(people)) == len({p.shape_key() for p in people}) == 600
    assert draw_people(20, seed=1) == people[:20]


def test_val_and_test_people_are_the_same_and_unseen_whatever_the_training_split():
    few, many = (SyntheticConfig(count, 40, 100).people() for count in (60, 600))
    assert [entry for entry in few if entry[0] != "train"] == [entry for entry in many if entry[0] != "train"]
    assert len({person.shape_key() for _, _, person in many}) == 740


def test_pictures_and_captions_of_the_test_split_do_not_depend_on_the_training_split(dataset, records, tmp_path):
    smaller = generate_tri_dataset(tmp_path, replace(CONFIG, train_identities=1))
    others = json.loads((smaller / "reid_raw.json").read_text(encoding="utf-8"))

    def unseen(folder: Path, entries: list[dict]) -> list[tuple]:
        kinds = "imgs", "imgs-sketch2"
        tested = [entry for entry in entries if entry["split"] == "test"]
        return [(e["captions"], *((folder / kind / e["file_path"]).read_bytes() for kind in kinds)) for e in tested]

    assert unseen(smaller, others) == unseen(dataset, records)


def test_training_persons_can_have_fewer_photos(dataset, records, tmp_path):
    fewer = generate_tri_dataset(tmp_path, replace(CONFIG, train_photos=1))
    kept = [r for r in records if r["split"] != "train" or r["file_path"].endswith("001.png")]
    assert json.loads((fewer / "reid_raw.json").read_text(encoding="utf-8")) == kept
    assert len(contents(fewer / "imgs")) == 5 + 5 * 3
    assert "train_photos" not in json.loads((dataset / "synthetic.json").read_text())["config"]
    assert generate_tri_dataset(tmp_path, replace(CONFIG, train_photos=1)) == fewer  # complete


def test_attributes_are_rich():
    people = draw_people(600, seed=1)
    bits = 0.0
    for values in zip(*(p.shape_key() for p in people), strict=True):
        counts = np.unique([str(v) for v in values], return_counts=True)[1]
        bits -= float((counts / 600 * np.log2(counts / 600)).sum())
    assert bits > 20  # if independent, as they nearly are


def test_every_kind_of_person_can_be_built():
    rng = np.random.default_rng(0)
    for person in draw_people(300, seed=3):
        parts = Figure(person, draw_pose(rng)).parts()
        points = np.concatenate([part.points for part in parts])
        assert np.isfinite(points).all() and np.abs(points[:, 0]).max() < 0.35
        assert points[:, 1].min() > -0.12 and points[:, 1].max() < 1.06


def test_captions_are_true_and_partial():
    rng = np.random.default_rng(0)
    mentioned, shown = 0, 0
    for person in draw_people(300, seed=2):
        caption = write_caption(rng, person)
        assert caption[0].isupper() and caption.endswith(".") and "  " not in caption
        assert colours_in(caption) <= colours_of(person), caption
        for bag in ("backpack", "suitcase", "handbag"):
            assert person.bag == bag or not any(word in caption for word in NOUNS[bag]), caption
        assert bool(person.scarf_colour) or "scarf" not in caption
        mentioned, shown = mentioned + len(colours_in(caption)), shown + len(colours_of(person))
    assert 0.6 < mentioned / shown < 0.92


def test_captions_vary_in_wording_with_a_small_vocabulary():
    rng = np.random.default_rng(0)
    people = draw_people(300, seed=2)
    assert len({write_caption(rng, people[0]) for _ in range(20)}) > 15
    lengths = [len(caption_tokens(write_caption(rng, person))) for person in people]
    words = {word for person in people for word in caption_tokens(write_caption(rng, person))}
    assert 100 < len(words) < 250
    assert max(lengths) < 60


def test_an_existing_data_set_is_reused(dataset):
    before = (dataset / "reid_raw.json").stat().st_mtime_ns
    assert generate_tri_dataset(dataset.parent, CONFIG) == dataset
    assert (dataset / "reid_raw.json").stat().st_mtime_ns == before


def test_a_folder_of_others_is_refused_even_with_force(tmp_path):
    mine = tmp_path / "CUHK-PEDES" / "reid_raw.json"
    mine.parent.mkdir()
    mine.write_text("[]")
    for force in (False, True):
        with pytest.raises(DataError, match="CUHK-PEDES: exists and is not"):
            generate_tri_dataset(tmp_path, CONFIG, force=force)
    assert mine.read_text() == "[]"


@pytest.mark.parametrize(
    "wrong", [{"photos_per_identity": 0}, {"train_photos": 0}, {"train_identities": -1}, {"seed": -1}]
)
def test_impossible_counts_are_refused(wrong):
    with pytest.raises(DataError, match=next(iter(wrong))):
        SyntheticConfig(**wrong)


def test_a_failure_half_way_leaves_nothing(tmp_path):
    def stop(done, total):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        generate_tri_dataset(tmp_path, CONFIG, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_leaves_no_half_data_set(tmp_path):
    process = subprocess.Popen(command(TOOL, "--output", tmp_path), stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while not list(tmp_path.rglob("*.png")) and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    assert list(tmp_path.rglob("*.png")) and not (tmp_path / "CUHK-PEDES").exists()
    assert generate_tri_dataset(tmp_path, SyntheticConfig(1, 0, 0)).is_dir()


def test_tool_makes_refuses_and_forces(tmp_path):
    made = run_tool(TOOL, "--output", tmp_path, *SMALL)
    assert made.returncode == 0 and "3/3" in made.stderr
    counts = json.loads(made.stdout)
    assert (counts["identities"], counts["photos"], counts["sketches"], counts["captions"]) == (3, 6, 6, 12)

    refused = run_tool(TOOL, "--output", tmp_path, *SMALL, "--seed", "9")
    assert refused.returncode == 2 and refused.stdout == ""
    assert re.fullmatch(r"error: .*CUHK-PEDES: .*--force.*\n", refused.stderr)

    before = contents(tmp_path / "CUHK-PEDES")
    assert run_tool(TOOL, "--output", tmp_path, *SMALL, "--seed", "9", "--force").returncode == 0
    assert contents(tmp_path / "CUHK-PEDES") != before
    assert [p.name for p in tmp_path.iterdir()] == ["CUHK-PEDES"]


def test_missing_files_are_detected(tmp_path):
    config = SyntheticConfig(1, 0, 0)
    folder = generate_tri_dataset(tmp_path, config)
    next((folder / "imgs-sketch2").rglob("*.png")).unlink()
    with pytest.raises(DataError, match="files are missing"):
        generate_tri_dataset(tmp_path, config)
    generate_tri_dataset(tmp_path, config, force=True)
    assert generate_tri_dataset(tmp_path, config) == folder


@pytest.mark.parametrize("style", ["pencil", "lines"])
def test_sketches_can_be_drawn_from_the_photos_instead(dataset, tmp_path, style):
    """Photos and captions stay as they are, and so does the manifest without a style."""
    config = replace(CONFIG, sketch_style=style)
    drawn = contents(generate_tri_dataset(tmp_path, config, workers=1))
    usual = contents(dataset)
    assert drawn.keys() == usual.keys()
    assert {name for name in usual if drawn[name] != usual[name]} == {n for n in usual if "sketch2" in n} | {
        "synthetic.json"
    }
    assert "sketch_style" not in json.loads(usual["synthetic.json"])["config"]
    with pytest.raises(DataError, match="another configuration"):
        generate_tri_dataset(tmp_path, CONFIG)
    for path in (tmp_path / "CUHK-PEDES" / "imgs-sketch2").rglob("*.png"):
        sketch = np.asarray(Image.open(path))
        assert sketch.shape == (192, 64) and 0.01 < (sketch < 160).mean() < 0.5 and (sketch > 235).mean() > 0.4


def test_unknown_sketch_styles_are_refused():
    with pytest.raises(DataError, match="pencil, lines"):
        SyntheticConfig(sketch_style="onnx")
