"""Colour-pencil and infrared pictures of the synthetic data set: files, determinism, what each of them shows."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tool_runner import CONFIGS, run_tool

from ms_unireid.apps.synthetic.dataset import MODALITIES, SyntheticConfig, generate_tri_dataset
from ms_unireid.apps.synthetic.drawing import draw_colour_pencil, draw_infrared
from ms_unireid.apps.synthetic.person import COLOURS, GARMENT_COLOURS, draw_infrared_greys, draw_people
from ms_unireid.config import load_config
from ms_unireid.data.pairs import read_captioned
from ms_unireid.errors import DataError

TOOL = "make_synthetic.py"
CONFIG = SyntheticConfig(train_identities=3, val_identities=1, test_identities=2, photos_per_identity=2, seed=7)
FOLDERS = {"sketch": "imgs-sketch2", "pencil": "imgs-pencil", "infrared": "imgs-infrared"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return generate_tri_dataset(tmp_path_factory.mktemp("all"), replace(CONFIG, modalities=MODALITIES))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), float)


def test_the_usual_files_stay_the_same_and_workers_do_not_matter(dataset, tmp_path):
    usual, whole = contents(generate_tri_dataset(tmp_path / "usual", CONFIG)), contents(dataset)
    added = {name for name in whole if name.startswith(("imgs-pencil/", "imgs-infrared/"))}
    assert set(whole) - set(usual) == {"pairs.csv", *added} and len(added) == 2 * 12
    assert [name for name in usual if usual[name] != whole[name]] == ["synthetic.json"]
    assert "modalities" not in json.loads(usual["synthetic.json"])["config"]
    again = replace(CONFIG, modalities=MODALITIES[::-1])  # the order that they are named in does not matter
    assert contents(generate_tri_dataset(tmp_path / "again", again, workers=2)) == whole


def test_pairs_name_the_pictures_of_each_photo(dataset):
    with (dataset / "pairs.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    records = json.loads((dataset / "reid_raw.json").read_text(encoding="utf-8"))
    for row, record in zip(rows, records, strict=True):
        assert list(row) == ["split", "id", "file_path", "caption_1", "caption_2", *MODALITIES]
        assert (row["split"], row["id"]) == (record["split"], str(record["id"]))
        assert [row["caption_1"], row["caption_2"]] == record["captions"]
        paths = [row["file_path"], *(row[modality] for modality in MODALITIES)]
        assert paths == [f"{folder}/{record['file_path']}" for folder in ("imgs", *FOLDERS.values())]
        pictures = [pixels(dataset / path) for path in paths]
        assert {picture.shape for picture in pictures} == {(192, 64, 3)}
        for i, picture in enumerate(pictures):
            assert all(np.abs(picture - other).mean() > 10 for other in pictures[:i])


def test_pencils_are_coloured_on_white_paper_and_infrared_is_grey(dataset):
    for path in (dataset / "imgs-pencil").rglob("*.png"):
        drawing = pixels(path)
        assert 0.3 < (drawing.min(-1) > 250).mean() < 0.85  # paper
        assert 0.02 < (drawing.max(-1) < 130).mean() < 0.35  # outlines and the darkest clothes
        assert (np.ptp(drawing, axis=-1) > 25).mean() > 0.03  # colours
    for path in (dataset / "imgs-infrared").rglob("*.png"):
        with Image.open(path) as picture:
            assert picture.mode == "L" and 20 < np.asarray(picture).std() < 110


def test_infrared_shows_materials_and_pencils_show_colours():
    def drawn(person, fabrics: int) -> tuple[Image.Image, Image.Image]:
        rng, greys = np.random.default_rng(2), draw_infrared_greys(np.random.default_rng(fabrics))
        return draw_infrared(rng, person, greys), draw_colour_pencil(np.random.default_rng(2), person)

    for person in draw_people(20, seed=3):
        worn = [name for name in GARMENT_COLOURS if getattr(person, name)]
        others = {name: list(COLOURS)[(list(COLOURS).index(getattr(person, name)) + 5) % 12] for name in worn}
        infrared, pencil = drawn(person, 1)
        same_infrared, other_pencil = drawn(replace(person, **others), 1)
        assert infrared.tobytes() == same_infrared.tobytes()
        assert np.abs(np.asarray(pencil, float) - np.asarray(other_pencil)).mean() > 5
        assert drawn(person, 2)[0].tobytes() != infrared.tobytes()


def test_fabrics_of_a_person_stay_and_vary_among_persons():
    greys = [draw_infrared_greys(np.random.default_rng((1, n))) for n in range(200)]
    assert greys[0] == draw_infrared_greys(np.random.default_rng((1, 0)))
    assert len({g["upper_colour"] for g in greys}) == len({g["bag_colour"] for g in greys}) == 5
    vanished = np.mean([g["accent_colour"] == g["upper_colour"] for g in greys])
    assert 0.2 < vanished < 0.45
    assert len({(g["skin"], g["hair_colour"]) for g in greys}) == 1


def test_two_photos_of_a_person_have_pictures_of_two_moments(dataset):
    for folder in FOLDERS.values():
        first, second = (pixels(dataset / folder / f"synthetic/00010{n:02d}.png") for n in (1, 2))
        assert np.abs(first - second).mean() > 2


def test_the_tool_draws_some_of_them_and_tells(tmp_path):
    small = ("--train-identities", "1", "--val-identities", "1", "--test-identities", "1", "--photos", "1")
    made = run_tool(TOOL, "--output", tmp_path, *small, "--modalities", "infrared", "pencil")
    assert made.returncode == 0, made.stderr
    counts = json.loads(made.stdout)
    assert (counts["sketches"], counts["pencil"], counts["infrared"]) == (0, 3, 3)
    folder = tmp_path / "CUHK-PEDES"
    assert (folder / "pairs.csv").read_text().splitlines()[0].endswith("caption_2,pencil,infrared")
    assert sorted(p.name for p in folder.iterdir() if p.is_dir()) == ["imgs", "imgs-infrared", "imgs-pencil"]
    refused = run_tool(TOOL, "--output", tmp_path, *small, "--modalities", "thermal")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "'thermal'" in refused.stderr


def test_another_choice_of_modalities_is_another_data_set(dataset):
    whole = replace(CONFIG, modalities=MODALITIES)
    assert generate_tri_dataset(dataset.parent, whole) == dataset
    for config in (CONFIG, replace(CONFIG, modalities=("sketch",))):
        with pytest.raises(DataError, match="another configuration"):
            generate_tri_dataset(dataset.parent, config)


def test_missing_pairs_and_pictures_are_detected(tmp_path):
    config = SyntheticConfig(1, 0, 0, photos_per_identity=1, modalities=("pencil",))
    folder = generate_tri_dataset(tmp_path, config)
    for path in (folder / "pairs.csv", folder / "imgs-pencil/synthetic/0001001.png"):
        path.unlink()
        with pytest.raises(DataError, match="files are missing"):
            generate_tri_dataset(tmp_path, config)
        generate_tri_dataset(tmp_path, config, force=True)


@pytest.mark.parametrize(
    "wrong", [{"modalities": ("thermal",)}, {"modalities": ()}, {"modalities": ("pencil",), "sketch_style": "lines"}]
)
def test_unknown_or_missing_modalities_are_refused(wrong):
    with pytest.raises(DataError, match="modalities"):
        SyntheticConfig(**wrong)


def test_the_shipped_config_reads_them(dataset):
    data = load_config(CONFIGS / "synthetic" / "modalities.yaml", [f"data.root={dataset}"]).data
    assert data.modalities == MODALITIES
    read = read_captioned(data).checked_annotations(("train", "val", "test"))
    assert {split: len(rows) for split, rows in read.items()} == {"train": 6, "val": 2, "test": 4}
    for entry in (entry for rows in read.values() for entry in rows):
        assert len(entry.captions) == 2 and all(len(entry.pictures[modality]) == 1 for modality in MODALITIES)
