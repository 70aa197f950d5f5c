"""Colour-pencil and infrared pictures of the synthetic data set: files, determinism, what each of them shows."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tool_runner import run_tool

from ms_unireid.apps.synthetic.dataset import MODALITIES, SyntheticConfig, generate_tri_dataset
from ms_unireid.apps.synthetic.drawing import draw_colour_pencil, draw_infrared
from ms_unireid.apps.synthetic.person import COLOURS, GARMENT_COLOURS, draw_infrared_greys, draw_people
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
    for path in sorted((dataset / "imgs-pencil").rglob("*.png")):
        drawing = pixels(path)
        assert 0.3 < (drawing.min(-1) > 250).mean() < 0.85  # paper
        assert 0.02 < (drawing.max(-1) < 130).mean() < 0.35  # outlines and the darkest clothes
        assert (np.ptp(drawing, axis=-1) > 25).mean() > 0.03  # colours
        assert np.abs(drawing - pixels(path.with_name(path.name[:-5] + "3.png".replace("3", "12"[path.name[-5] == "1"])))).mean() > 2
    for path in (dataset / "imgs-infrared").rglob("*.png"):
        with Image.open(path) as picture:
            assert picture.mode == "L" and 20 < np.asarray(picture).std() < 90
