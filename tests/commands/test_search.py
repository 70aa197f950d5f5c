"""The search tool through its command line: indexes, queries, and one-line errors."""

import contextlib
import json
import os
import re
import signal
import subprocess
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from apps.search.index_factory import colour_of, put_photo, put_photos
from PIL import Image
from tool_runner import LIMIT, command, load_tool, run_tool

from ms_unireid.apps.search.engines.embedded import PhotoIndex
from ms_unireid.apps.search.manifest import Manifest
from ms_unireid.config import load_config, to_dict
from ms_unireid.errors import ConfigError, DataError, QueryError

MODEL = ("model.architecture=tiny", "model.image_size=[32, 16]", "model.context_length=24", "runtime.device=CPU")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Save an untrained model; these tests do not depend on its quality."""
    from ms_unireid.checkpoints.checkpoint import save_checkpoint
    from ms_unireid.models.unireid import build_model

    config = load_config(None, [*MODEL, "eval.batch_size=16", "runtime.graph_mode=false"])
    path = tmp_path_factory.mktemp("model") / "model.ckpt"
    save_checkpoint(path, build_model(config.model, 1).get_parameters(), {"config": to_dict(config)})
    return path


@pytest.fixture
def photos(tmp_path) -> Path:
    put_photos(tmp_path / "photos", range(12))
    return tmp_path / "photos"


def call(*arguments: object) -> None:
    """Call the tool's main in this process."""
    load_tool("search.py").main([str(one) for one in arguments])


def test_a_folder_is_indexed_and_searched(photos, checkpoint, tmp_path, capsys):
    """By the compiled model; test_start.py queries with it."""
    (photos / "bad.jpg").write_bytes(b"\xff\xd8\xff no picture")
    index = tmp_path / "index"
    new = ("--photos", photos, "--checkpoint", checkpoint, "--output", index, "runtime.graph_mode=true")
    done = run_tool("search.py", "index", *new)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["photos"], summary["encoded"]) == (12, 12)
    assert list(summary["skipped"]) == [str(photos / "bad.jpg")] and "encoded" in done.stderr
    assert not re.search("MS_|WARNING|deprecated", done.stderr)
    outputs = {kind: tmp_path / f"found.{kind}" for kind in ("json", "csv", "png")}
    call(
        "query", "--index", index, "--text", "a man 🧍 in red", "--sketch", photos / "003.png",
        "--weight", 1, "--top-k", 3, "--json", outputs["json"], "--csv", outputs["csv"],
        "--figure", outputs["png"], "--heat-map",
    )  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert "a man 🧍 in red" in lines[0] and len(lines) == 4 and str(photos / "003.png") in lines[1]
    (found,) = json.loads(outputs["json"].read_text())
    assert found["hits"][0]["photo"] == str(photos / "003.png") and found["hits"][0]["score"] > 0.999
    assert len(outputs["csv"].read_text().splitlines()) == 4
    with Image.open(outputs["png"]) as picture:
        assert picture.format == "PNG"


def test_the_next_run_updates_the_index(photos, checkpoint, tmp_path, capsys):
    index = tmp_path / "index"
    call("index", "--photos", photos, "--checkpoint", checkpoint, "--output", index)
    (photos / "000.png").unlink()
    put_photo(photos / "new.png", colour_of(99))
    capsys.readouterr()
    call("index", "--output", index, "--json", tmp_path / "summary.json")
    summary = json.loads(capsys.readouterr().out)
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert (summary["photos"], summary["encoded"], summary["kept"], summary["removed"]) == (12, 1, 11, 1)
    call("info", "--index", index)
    info = json.loads(capsys.readouterr().out)
    assert info["photos"] == 12 and info["checkpoint"]["path"] == str(checkpoint) and info["dtype"] == "float16"
    assert info["sources"] == [{"folder": str(photos)}]


def test_a_split_of_a_data_set_has_identities(data, checkpoint, tmp_path, capsys):
    index = tmp_path / "index"
    call(
        "index",
        "--dataset",
        "cuhk_pedes",
        "--root",
        data,
        "--split",
        "val",
        "--checkpoint",
        checkpoint,
        "--output",
        index,
    )
    found = PhotoIndex(index)
    assert found.count == 12 and len({found.person(row) for row in range(12)}) == 4
    capsys.readouterr()
    call("query", "--index", index, "--photo", found.path(5), "--top-k", 1)
    assert f"{found.path(5)}  person {found.person(5)}" in capsys.readouterr().out


def test_queries_from_a_file(photos, checkpoint, tmp_path, capsys):
    index = tmp_path / "index"
    call("index", "--photos", photos, "--checkpoint", checkpoint, "--output", index, "--dtype", "float32")
    (tmp_path / "q.csv").write_text("name,photo,text\nfirst,photos/004.png,\nsecond,,a woman in blue\n")
    call("query", "--index", index, "--queries", tmp_path / "q.csv", "--top-k", 2, "--json", tmp_path / "found.json")
    first, second = json.loads((tmp_path / "found.json").read_text())
    assert (first["name"], second["name"]) == ("first", "second") and len(second["hits"]) == 2
    assert first["hits"][0]["photo"] == str(photos / "004.png")


def test_photos_marks_filters_and_folding(photos, checkpoint, tmp_path, capsys):
    for number, name in enumerate(("a_c1_20240501120000.png", "b_c2_20240502120000.png", "c_c2_.png")):
        put_photo(photos / "sorted" / name, colour_of(20 + number))
    index, found = tmp_path / "index", tmp_path / "found.json"
    call("index", "--photos", photos, "--checkpoint", checkpoint, "--output", index)
    capsys.readouterr()
    call("info", "--index", index)
    info = json.loads(capsys.readouterr().out)
    assert (info["folders"], info["cameras"], info["persons"]) == (2, 2, 0)
    assert info["times"] == ["2024-05-01T12:00:00", "2024-05-02T12:00:00"]

    def query(*arguments: object) -> list[str]:
        call("query", "--index", index, "--json", found, *arguments)
        (answer,) = json.loads(found.read_text())
        return [Path(hit["photo"]).name[:3] for hit in answer["hits"]]

    two = ("--photo", photos / "003.png", "--photo", photos / "004.png", "--text", "a man", "--weight", 1)
    assert set(query(*two, "--more", 5, "--less", photos / "006.png", "--top-k", 3)) & {"003", "004"}
    answer = json.loads(found.read_text())[0]
    assert answer["photos"] == [str(photos / "003.png"), str(photos / "004.png")]
    assert answer["more"] == ["5"] and answer["less"] == [str(photos / "006.png")]
    assert set(query("--text", "a man", "--folder", photos / "sorted")) == {"a_c", "b_c", "c_c"}
    assert set(query("--text", "a man", "--camera", 2, "--camera", 7)) == {"b_c", "c_c"}
    assert query("--text", "a man", "--after", "2024-05-02") == ["b_c"]
    assert query("--text", "a man", "--before", "2024-05-01", "--camera", 1) == ["a_c"]
    answer = json.loads(found.read_text())[0]
    assert answer["filter"] == {"folders": [], "cameras": ["1"], "persons": [], "after": "", "before": "2024-05-01"}
    put_photo(photos / "copy.png", colour_of(3))
    call("index", "--output", index)
    assert set(query("--photo", photos / "003.png", "--top-k", 2)) == {"003", "cop"}
    assert query("--photo", photos / "003.png", "--top-k", 2, "--fold", 0.999999)[0] == "003"
    assert len(json.loads(found.read_text())[0]["hits"][0]["same"]) == 1
    assert len(query("--photo", photos / "003.png", "--fold")) <= 10
    for arguments, message in (
        (("--person", "7"), "no photo passes the filter by person; the index has no known person"),
        (("--camera", "9"), "by camera; the index has 1, 2"),
        (("--after", "soon"), "after 'soon': expected a date"),
        (("--fold", "2"), "fold 2.0: expected a cosine"),
        (("--more", tmp_path / "absent.png"), "absent.png: is not among the 16 photos"),
        (("--more", "99"), "row 99: the index has 16 photos"),
    ):
        with pytest.raises(QueryError, match=message):
            query("--text", "a man", *arguments)


def test_pictures_of_the_modalities_that_the_model_was_trained_for(photos, checkpoint, tmp_path, capsys):
    from ms_unireid.checkpoints.checkpoint import open_model, save_checkpoint

    model, config, _ = open_model(checkpoint)
    objective = replace(config.objective, tasks=("text", "sketch", "thermal"))
    config = replace(config, data=replace(config.data, modalities=("sketch", "thermal")), objective=objective)
    save_checkpoint(tmp_path / "many.ckpt", model.get_parameters(), {"config": to_dict(config)})
    index, photo = tmp_path / "index", photos / "003.png"
    call("index", "--photos", photos, "--checkpoint", tmp_path / "many.ckpt", "--output", index)
    (tmp_path / "q.csv").write_text("name,text,picture\nfirst,a man,thermal=photos/003.png\n")
    capsys.readouterr()
    call("query", "--index", index, "--text", "a man", "--picture", f"thermal={photo}", "--json", tmp_path / "q.json")
    (one,) = json.loads((tmp_path / "q.json").read_text())
    assert one["pictures"] == {"thermal": [str(photo)]} and one["sketch"] == []
    assert capsys.readouterr().out.startswith(f'"a man" + thermal {photo} (picture weight 0.5)')
    call("query", "--index", index, "--queries", tmp_path / "q.csv", "--json", tmp_path / "q.json")
    (listed,) = json.loads((tmp_path / "q.json").read_text())
    assert listed["hits"] == one["hits"] and listed["name"] == "first"
    with pytest.raises(QueryError, match="picture pencil: the model was trained for text, sketch, thermal; ask with"):
        call("query", "--index", index, "--picture", f"pencil={photo}")


def test_photos_are_handed_over(photos, checkpoint, tmp_path, capsys):
    index, sheet, copies = tmp_path / "index", tmp_path / "a" / "sheet.html", tmp_path / "b" / "found.zip"
    call("index", "--photos", photos, "--checkpoint", checkpoint, "--output", index)
    (tmp_path / "q.jsonl").write_text('{"text": "a <b>"}\n{"photo": ["photos/003.png"], "text": "x", "weight": 1}\n')
    (photos / "007.png").unlink()
    capsys.readouterr()
    call("query", "--index", index, "--queries", tmp_path / "q.jsonl", "--top-k", 12, "--sheet", sheet, "--zip", copies)
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert f"not in {copies}" in warning and "007.png" in warning
    page = sheet.read_text()
    assert page.count("<img") == 22 and page.count("<h2>line ") == 2 and "<b>" not in page
    with zipfile.ZipFile(copies) as archive:
        listed = json.loads(archive.read("photos.json"))
        assert len(archive.namelist()) == 13 and len(listed["photos"]) == 24
    assert listed["checkpoint"] == str(checkpoint) and listed["index"] == str(index)
    assert [one.name for one in (*sheet.parent.iterdir(), *copies.parent.iterdir())] == ["sheet.html", "found.zip"]


def test_the_approximate_index(photos, checkpoint, tmp_path, capsys):
    index = tmp_path / "index"
    call("index", "--photos", photos, "--checkpoint", checkpoint, "--output", index)
    (tmp_path / "q.jsonl").write_text('{"text": "a man in red"}\n{"text": "a woman with a bag"}\n')
    capsys.readouterr()
    call("approximate", "--index", index, "--queries", tmp_path / "q.jsonl")
    assert json.loads(capsys.readouterr().out)["recall_at_10"] == {"queries": 1.0, "photos": 1.0}
    call("query", "--index", index, "--photo", photos / "002.png", "--approximate", "--top-k", 1)
    assert str(photos / "002.png") in capsys.readouterr().out


def test_shards_are_merged_into_the_index_of_one_run(photos, checkpoint, tmp_path, capsys):
    made = ("--photos", photos, "--checkpoint", checkpoint, "--output")
    found = []
    for number in (1, 2):
        call("index", "--shard", f"{number}/2", *made, tmp_path / f"part{number}")
    call("index", *made, tmp_path / "one")
    with pytest.raises(ConfigError, match="has shard 1/2, not 2/2; choose another --output"):
        call("index", "--shard", "2/2", *made, tmp_path / "part1")
    with pytest.raises(ConfigError, match="has the photos of all shards, not 1/2"):
        call("index", "--shard", "1/2", *made, tmp_path / "one")
    capsys.readouterr()
    call("merge", tmp_path / "part1", tmp_path / "part2", "--output", tmp_path / "merged")
    assert json.loads(capsys.readouterr().out)["photos"] == 12
    for name in ("one", "merged"):
        call("query", "--index", tmp_path / name, "--text", "a man in red", "--json", tmp_path / f"{name}.json")
        found.append(json.loads((tmp_path / f"{name}.json").read_text())[0]["hits"])
    assert found[0] == found[1] and len(found[0]) == 10


def test_a_killed_run_continues(checkpoint, tmp_path, capsys):
    """After SIGKILL between two batches, the next run encodes only the rest."""
    photos, index, count, few = tmp_path / "photos", tmp_path / "index", 200, "eval.batch_size=4"
    put_photos(photos, range(count))
    started = subprocess.Popen(
        command("search.py", "index", "--photos", photos, "--checkpoint", checkpoint, "--output", index, few),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + LIMIT
    while started.poll() is None and time.monotonic() < deadline:
        features = index / "features.1.float16"
        if features.exists() and features.stat().st_size > 8 * 64:
            os.kill(started.pid, signal.SIGKILL)
            break
        time.sleep(0.001)
    assert started.wait() == -signal.SIGKILL
    stopped = PhotoIndex(index)
    before = stopped.count
    left = count - before
    assert 0 < before < count and stopped.state == {"whole": False, "photos": before, "skipped": 0, "left": left}
    call("index", "--output", index, few)
    summary = json.loads(capsys.readouterr().out)
    assert (summary["photos"], summary["kept"], summary["encoded"]) == (count, before, left)
    assert sorted(PhotoIndex(index).photos) == sorted(photos.iterdir())


def test_an_index_that_is_not_whole_says_so(photos, checkpoint, tmp_path, capsys):
    index = tmp_path / "index"
    call("index", "--photos", photos, "--checkpoint", checkpoint, "--output", index)
    with contextlib.closing(Manifest(index)) as manifest, manifest.transaction():
        manifest.set_about(left=3)  # as a stop leaves it
    capsys.readouterr()
    (tmp_path / "q.csv").write_text("text\na man\na woman\n")
    call("query", "--index", index, "--queries", tmp_path / "q.csv", "--top-k", 1, "--json", tmp_path / "found.json")
    told = capsys.readouterr().err
    assert told.count("is not whole, it stopped at 12 of 15 photos") == 1
    for one in json.loads((tmp_path / "found.json").read_text()):
        assert (
            one["index"] == {"whole": False, "photos": 12, "skipped": 0, "left": 3} and "not whole" in one["notes"][0]
        )
    call("info", "--index", index)
    info = json.loads(capsys.readouterr().out)
    assert (info["whole"], info["left"]) == (False, 3)
    call("index", "--output", index, "--remove", photos)
    with pytest.raises(DataError, match=r"has no photos .* index --output"):
        call("query", "--index", index, "--text", "a man")


def test_folders_out_of_reach_are_told(photos, checkpoint, tmp_path, capsys):
    index = tmp_path / "index"
    call("index", "--photos", photos, "--checkpoint", checkpoint, "--output", index)
    photos.rename(tmp_path / "moved")
    capsys.readouterr()
    call("index", "--photos", tmp_path / "moved", "--output", index)
    printed = capsys.readouterr()
    assert json.loads(printed.out)["unreachable"] == {str(photos): 12}
    assert "its 12 photos stay in the index; if they are gone for good, forget them with" in printed.err
    assert f"--output {index} --remove {photos}" in printed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("index", "--output", "new"), "a new index needs --checkpoint"),
        (("index", "--dataset", "cuhk_pedes", "--output", "new"), "--dataset needs --root"),
        (("index", "--photos", ".", "--checkpoint", "absent.ckpt", "--output", "new"), "absent.ckpt"),
        (("query", "--index", "absent", "--text", "a man"), "is not an index"),
        (("query", "--index", "absent"), "nothing to search for"),
        (("query", "--index", "absent", "--text", ""), "description is empty"),
        (("query", "--index", "absent", "--text", "a", "--heat-map"), "add --figure"),
        (("query", "--index", "absent", "--less", "3"), "nothing to search for"),
        (("query", "--index", "absent", "--text", "a", "--after", "2024-05-02", "--before", "2024"), "before '2024'"),
        (("query", "--index", "absent", "--queries", "q.csv", "--more", "3"), "leave out --text"),
        (("query", "--index", "absent", "--text", "a", "--queries", "q.csv"), "leave out --text"),
        (("query", "--index", "absent", "--picture", "pencil=p.png", "--queries", "q.csv"), "leave out --text"),
        (("query", "--index", "absent", "--picture", "p.png"), "picture 'p.png': expected MODALITY=PATH"),
        (("query", "--index", "absent", "--picture", "pencil=p.png"), "--picture p.png: does not exist; give MODALITY"),
        (("approximate", "--index", "absent", "--recall", "0"), "--recall 0.0"),
        (("info", "--index", "absent"), "is not an index"),
        (("merge", "absent", "--output", "new"), "is not an index"),
        (("index", "--shard", "3/2", "--output", "new"), "--shard '3/2': expected a number and how many there are"),
    ],
)
def test_mistakes_are_reported_and_create_no_files(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match=message) as caught:
        call(*arguments)
    assert isinstance(caught.value, ConfigError.__mro__[1]) and not list(tmp_path.iterdir())


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path):
    done = run_tool("search.py", "query", "--index", tmp_path, "--text", "a man")
    assert done.returncode == 2 and done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "is not an index" in line and "Traceback" not in done.stderr
