"""The picture of a batch: what the network sees, in its colours. Costs three seconds."""

import json

import numpy as np
import pytest
from PIL import Image
from tool_runner import load_tool

from ms_unireid.config import load_config
from ms_unireid.data.transforms import load_pixels
from ms_unireid.errors import ConfigError, DataError
from ms_unireid.training import batch_figure
from ms_unireid.training.run_data import RunData

SMALL = ("model.image_size=[32, 16]", "data.batch_size=4", "data.augment.pad=0", "data.augment.flip=0")


def shown(monkeypatch, config, count):
    """Return the rows that are drawn, and the title."""
    calls = []
    monkeypatch.setattr(batch_figure, "draw_lists", lambda rows, path, title, columns: calls.append((rows, title)))
    batch_figure.draw_batch(RunData(config), None, count)
    return calls[0]


def test_rows_show_the_files_and_what_the_network_gets_of_them(data, monkeypatch):
    config = load_config(None, [f"data.root={data}", *SMALL, "model.context_length=12", "data.augment.erase=0"])
    rows, title = shown(monkeypatch, config, 3)
    assert title.startswith("3 of 4 pairs") and "32 x 16" in title and len(rows) == 3
    names = RunData(config).describe_batch(1, 1)
    for row, name in zip(rows, names, strict=False):
        assert [one.label for one in row.results] == ["photo", "network", "sketch", "network"]
        for file, seen in zip(row.results[::2], row.results[1::2], strict=True):
            np.testing.assert_array_equal(np.asarray(seen.picture), load_pixels(file.picture, (32, 16)))
        assert [str(row.results[i].picture) for i in (0, 2)] == [name["photo"], name["sketch"]]
        assert row.text.endswith("[12 of 12 tokens]") and row.text[:5] == name["caption"].lower()[:5]


def test_what_is_erased_is_shown_grey(data, monkeypatch):
    config = load_config(None, [f"data.root={data}", *SMALL, "data.augment.erase=1"])
    rows, _ = shown(monkeypatch, config, 9)
    assert len(rows) == 4
    grey = np.array([155, 147, 133])  # CLIP's mean, not normalised, as a colour
    assert all((np.abs(np.asarray(row.results[1].picture) - grey) <= 1).all(-1).any() for row in rows)


def test_a_missing_sketch_is_named(data, monkeypatch, tmp_path):
    folder = data / "CUHK-PEDES"
    rows = json.loads((folder / "reid_raw.json").read_text())
    for row in rows:
        row["sketch"] = []
    rows[0]["sketch"] = [f"imgs-sketch2/{rows[0]['file_path']}"]
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    own = ["data.name=pairs", f"data.root={folder}", f"data.annotations={tmp_path / 'pairs.json'}"]
    drawn, _ = shown(monkeypatch, load_config(None, [*own, *SMALL, "data.batch_size=64"]), 64)
    labels = {tuple(one.label for one in row.results[2:]) for row in drawn}
    assert labels == {("sketch", "network"), ("no sketch", "not used")}


def test_the_command_writes_a_picture(data, tmp_path, capsys):
    out = tmp_path / "batch.png"
    main = load_tool("show_batch.py").main
    main(["--config", "smoke", f"data.root={data}", "data.name=cuhk_pedes", "--output", str(out), "--pairs", "2"])
    assert capsys.readouterr().out == f"{out}\n"
    with Image.open(out) as picture:
        assert picture.width > 500 and picture.height > 350


@pytest.mark.parametrize(
    "arguments, error",
    [
        (["--config", "smoke", "--output", "batch.txt"], r"batch\.txt: expected a name that ends in \.png"),
        (["--config", "smokes"], "smokes"),
        (["--config", "smoke", "--pairs", "0"], "--pairs"),
        (["--config", "smoke", "data.rot=x"], "data.root"),
    ],
)
def test_a_wrong_argument_is_refused(arguments, error):
    with pytest.raises(ConfigError, match=error):
        load_tool("show_batch.py").main(arguments)


def test_missing_data_are_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        load_tool("show_batch.py").main(
            ["--config", "smoke", f"data.root={tmp_path / 'nowhere'}", "--output", str(tmp_path / "b.png")]
        )
    assert not list(tmp_path.iterdir())
