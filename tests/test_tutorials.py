"""The tutorials run as they are printed, on less data and a smaller model. Costs 50 seconds of processor time."""

import importlib.util
import subprocess
import sys
from dataclasses import replace

import pytest
from tool_runner import ROOT, TINY

from ms_unireid.apps.export import exporting
from ms_unireid.apps.synthetic import dataset

FOLDER = ROOT / "tutorials"
pytestmark = pytest.mark.slow


@pytest.fixture
def tutorial(monkeypatch, tmp_path):
    """Return a function that loads a tutorial, which draws few people, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def load(name):
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        draw = dataset.generate_tri_dataset
        few = {"train_identities": 12, "val_identities": 4, "test_identities": 6, "photos_per_identity": 2}
        module.generate_tri_dataset = lambda root, asked: draw(
            root, replace(asked, **{key: min(value, getattr(asked, key)) for key, value in few.items()})
        )
        return module

    return load


def test_train_on_your_pairs(tutorial, tmp_path, capfd):
    tutorial("train_on_your_pairs").main(
        None, *TINY, "data.augment.pad=0", "train.epochs=1", "runtime.graph_mode=false"
    )
    out = capfd.readouterr().out
    assert "T+S->R" in out and "runs/tutorial/ranked.png" in out
    run = tmp_path / "runs" / "tutorial"
    assert {"batch.png", "curves.png", "ranked.png", "best_average.ckpt"} <= {file.name for file in run.iterdir()}


def test_find_in_your_folder(tutorial, capfd):
    module = tutorial("find_in_your_folder")
    module.main()
    out = capfd.readouterr().out
    assert "12 photos in" in out
    found = dict(line.rsplit("  ", 4)[0].split("  ", 1) for line in out.splitlines() if line.startswith("by "))
    assert all("0001" in first for first in found.values()) and len(found) == 3  # the person asked for


def test_bring_a_checkpoint(tutorial, tmp_path, capfd, monkeypatch):
    # What exports are compared with is compiled in test_export_model.py.
    monkeypatch.setattr(exporting, "_EXPORTED_FORM", (*exporting._EXPORTED_FORM, "runtime.graph_mode=false"))
    tutorial("bring_a_checkpoint").main()
    out = capfd.readouterr().out
    assert "4 x 128 (4 heads)" in out and "T+S->R" in out and "image_encoder.mindir" in out
    assert (tmp_path / "runs" / "tutorial_checkpoint" / "exported" / "input_specification.json").exists()


@pytest.mark.parametrize("name", sorted(file.stem for file in FOLDER.glob("*.py")))
def test_a_mistake_is_one_line(name, tmp_path):
    arguments = ["nowhere", "nothing.ckpt", "a man", "sketch.png"] if name == "find_in_your_folder" else ["nowhere"]
    command = [sys.executable, str(FOLDER / f"{name}.py"), *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ") and "no" in done.stderr
    assert not (tmp_path / "runs").exists()
