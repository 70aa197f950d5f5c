"""Open-set evaluation, calibration, and hits that are probably not there: through the command line."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
from tool_runner import load_tool, run_tool

from ms_unireid.apps.search.engines.embedded import PhotoIndex
from ms_unireid.checkpoints.thresholds import Thresholds, read_thresholds, thresholds_file, write_thresholds
from ms_unireid.errors import ConfigError, UserError
from ms_unireid.files import sha256

TINY = ["model.architecture=tiny", "model.image_size=[32, 16]", "model.context_length=24", "eval.batch_size=16"]
TINY += ["runtime.device=CPU", "runtime.graph_mode=false"]
CALIBRATE = ("--open-set", "--calibrate", "--false-alarms", "0.25")


def call(tool: str, *arguments: object) -> None:
    """Call the tool's main in this process."""
    load_tool(tool).main([str(one) for one in arguments])


@pytest.fixture(scope="module")
def made(data, tmp_path_factory) -> Path:
    """Return a folder with an untrained model and an index of its val split."""
    from ms_unireid.checkpoints.checkpoint import save_checkpoint
    from ms_unireid.config import load_config, to_dict
    from ms_unireid.models.unireid import build_model

    folder, config = tmp_path_factory.mktemp("made"), load_config(None, [*TINY, f"data.root={data}"])
    save_checkpoint(folder / "m.ckpt", build_model(config.model, 1).get_parameters(), {"config": to_dict(config)})
    val = ("--dataset", "cuhk_pedes", "--root", data, "--split", "val")
    call("search.py", "index", *val, "--checkpoint", folder / "m.ckpt", "--output", folder / "index")
    return folder


@pytest.fixture
def model(made) -> Path:
    """Return the model without thresholds."""
    thresholds_file(made / "m.ckpt").unlink(missing_ok=True)
    return made / "m.ckpt"


def query(made: Path, *arguments: object) -> dict:
    call(
        "search.py", "query", "--index", made / "index", *arguments, "--json", made / "q.json", "--csv", made / "q.csv"
    )
    return json.loads((made / "q.json").read_text(encoding="utf-8"))[0]


def test_the_table_is_added_to_the_usual_one(model, tmp_path, capsys):
    call("evaluate.py", "--checkpoint", model)
    plain = capsys.readouterr().out
    out = ("--json", tmp_path / "o.json", "--markdown", tmp_path / "o.md")
    call("evaluate.py", "--checkpoint", model, "--open-set", "--false-alarms", "0.1", "--false-alarms", "0.5", *out)
    printed, written = capsys.readouterr().out, json.loads((tmp_path / "o.json").read_text())
    assert printed.startswith(plain) and written["split"] == "test" and len(written["rows"]) == 4
    lines = printed.removeprefix(plain).split("\n")[1:-1]
    assert lines[0].split()[:4] == ["task", "FAR", "threshold", "DIR1"]
    assert [line.split()[:2] for line in lines[1:3]] == [["T->R", "10%"], ["T->R", "50%"]] and len(lines) == 1 + 4 * 2
    for row, line in zip(written["open_set"], lines[1:], strict=True):
        assert line.split()[2] == f"{row['threshold']:.4f}" and row["DIR1"] <= row["DIR5"] <= row["DIR10"]
        assert row["photos"] == 9  # of the 12, those of other persons
    assert "| FAR |" in " ".join((tmp_path / "o.md").read_text().split())
    assert not thresholds_file(model).exists()


def test_two_checkpoints_have_their_columns(model, data, tmp_path, capsys):
    shutil.copy(model, tmp_path / "other.ckpt")
    call("evaluate.py", "--checkpoint", model, "--checkpoint", tmp_path / "other.ckpt", "--open-set")
    table = capsys.readouterr().out.split("\n\n")[1].splitlines()
    assert table[0].startswith("checkpoint") and len(table) == 1 + 2 * 4 * 3
    assert [row.split()[0] for row in table[1::12]] == [str(model), str(tmp_path / "other.ckpt")]
    assert table[1].split()[4:7] == ["T->R", "1%", "-"]  # 24 captions are too few for one percent


def test_hits_below_the_calibrated_threshold_are_marked(model, made, capsys):
    before, digest = query(made, "--text", "a man in red"), sha256(model.open("rb"))
    assert "threshold" not in (made / "q.csv").read_text() and "threshold" not in str(before)
    plain = capsys.readouterr().out
    call("evaluate.py", "--checkpoint", model, *CALIBRATE)
    assert str(thresholds_file(model)) in capsys.readouterr().err and sha256(model.open("rb")) == digest
    kept = read_thresholds(model)
    assert (kept.split, kept.dataset, kept.false_alarms, set(kept.tasks)) == (
        "val", "cuhk_pedes", 0.25, {"text", "sketch", "fusion", "photo"},
    )  # fmt: skip
    photo = PhotoIndex(made / "index").path(0)
    for task, asked in {
        "text": ("--text", "a man in red"),
        "sketch": ("--sketch", photo),
        "fusion": ("--text", "a man in red", "--sketch", photo),
        "photo": ("--photo", photo),
    }.items():
        found = query(made, *asked, "--top-k", 12, "--as-is")
        threshold = kept.threshold(task, 12)
        assert [hit["probably_not_here"] for hit in found["hits"]] == [h["score"] <= threshold for h in found["hits"]]
        assert {hit["threshold"] for hit in found["hits"]} == {round(threshold, 6)}
        assert f'at most {threshold:.4f} means "probably not here" ({task} among 12 photos; 25%' in found["notes"][-1]
        rows = list(csv.DictReader(io.StringIO((made / "q.csv").read_text())))
        assert [row["probably_not_here"] == "True" for row in rows] == [h["probably_not_here"] for h in found["hits"]]
        lines = capsys.readouterr().out.splitlines()[1:]
        assert [line.endswith("probably not here") for line in lines] == [h["probably_not_here"] for h in found["hits"]]
    after = query(made, "--text", "a man in red")
    assert [hit["row"] for hit in after["hits"]] == [hit["row"] for hit in before["hits"]]
    assert plain.splitlines()[0] in capsys.readouterr().out


def test_the_threshold_is_that_of_the_photos_that_pass_a_filter(model, made):
    call("evaluate.py", "--checkpoint", model, *CALIBRATE)
    found = query(made, "--text", "a man", "--person", "13")
    assert {hit["threshold"] for hit in found["hits"]} == {round(read_thresholds(model).threshold("text", 3), 6)}


@pytest.mark.parametrize("more", [("--weight", 0.7, "--sketch"), ("--photo",), ("--more",)])
def test_other_queries_are_not_judged(model, made, more):
    call("evaluate.py", "--checkpoint", model, *CALIBRATE)
    found = query(made, "--text", "a man", *more, PhotoIndex(made / "index").path(0), "--as-is")
    assert "is not judged" in found["notes"][-1] and "threshold" not in found["hits"][0]


def test_the_sheet_says_so(model, made, tmp_path):
    about = PhotoIndex(made / "index").about
    task = {"threshold": 1.0, "per_doubling": 0.0, "photos": 12, "queries": 24}
    write_thresholds(model, Thresholds(about["checkpoint"]["sha256"], about["model"], 0.05, "d", "val", {"text": task}))
    query(made, "--text", "a man", "--sheet", tmp_path / "s.html", "--zip", tmp_path / "z.zip")
    assert (tmp_path / "s.html").read_text().count("<dd>probably not here: not above 1.0000</dd>") == 10
    assert "is not judged" in query(made, "--photo", _photo(made))["notes"][-1]


def _photo(made: Path) -> Path:
    return PhotoIndex(made / "index").path(0)


def test_thresholds_of_another_model_are_told_and_not_used(model, made):
    about = PhotoIndex(made / "index").about
    write_thresholds(model, Thresholds("0" * 64, about["model"], 0.05, "d", "val", {}))
    found = query(made, "--text", "a man")
    assert "are of another one or of other settings" in found["notes"][-1] and "threshold" not in found["hits"][0]


def test_damaged_thresholds_are_one_line(model, made):
    thresholds_file(model).write_text("{", encoding="utf-8")
    done = run_tool("search.py", "query", "--index", made / "index", "--text", "a man")
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 2 and "m.ckpt.thresholds.json: is damaged" in error and "Traceback" not in done.stderr
    with pytest.raises(UserError, match="is damaged"):
        call("convert_checkpoint.py", model, made / "new.pth")
    assert not (made / "new.pth").exists()


def test_a_conversion_takes_them_along(model, made, tmp_path):
    call("evaluate.py", "--checkpoint", model, *CALIBRATE)
    call("convert_checkpoint.py", model, tmp_path / "m.pth")
    call("convert_checkpoint.py", tmp_path / "m.pth", tmp_path / "back.safetensors")
    kept, back = read_thresholds(model), read_thresholds(tmp_path / "back.safetensors")
    assert back.checkpoint_sha256 == sha256((tmp_path / "back.safetensors").open("rb")) != kept.checkpoint_sha256
    assert back.tasks == kept.tasks
    photos = ("--photos", _photo(made).parent)
    call("search.py", "index", *photos, "--checkpoint", tmp_path / "back.safetensors", "--output", tmp_path / "index")
    assert back.fits(PhotoIndex(tmp_path / "index").about)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--calibrate",), "add --open-set"),
        (("--false-alarms", "0.05"), "add --open-set"),
        (("--open-set", "--calibrate"), "give one, as --false-alarms 0.05"),
        (("--open-set", "--calibrate", "--false-alarms", "0.1", "--false-alarms", "0.2"), "one false-alarm rate"),
        (("--open-set", "--false-alarms", "5"), "--false-alarms 5: expected a share .* 0.05 for 5 %"),
        (("--open-set", "--false-alarms", "x"), "--false-alarms x: expected a share"),
        (("--open-set", "--false-alarms", "nan"), "--false-alarms nan: expected a share"),
        ((*CALIBRATE, "--split", "train"), "learned these persons by heart"),
        (("--open-set", "--calibrate", "--false-alarms", "0.01"), "has only 12 queries of a task; give at least 0.083"),
        ((*CALIBRATE, "--target", "cuhk_pedes=a", "--target", "cuhk_pedes=b"), "one checkpoint on one data set"),
    ],
)
def test_mistakes_are_told_before_anything_is_encoded(model, monkeypatch, arguments, message):
    from ms_unireid.evaluation.encoder import Encoder

    monkeypatch.setattr(Encoder, "encode", lambda *_: pytest.fail("encoded"))
    with pytest.raises(ConfigError, match=message):
        call("evaluate.py", "--checkpoint", model, *arguments)
    assert not thresholds_file(model).exists()
