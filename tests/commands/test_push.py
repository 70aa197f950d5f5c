"""Milvus through the command line: push, search, page, kills, and one-line errors."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import time
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from apps.search.index_factory import put_photos, update
from apps.search.shape_people import caption
from commands.search_page import served
from milvus_lite.server_manager import server_manager_instance
from tool_runner import LIMIT, command, load_tool, run_tool

from ms_unireid.apps.search.engines.embedded import PhotoIndex
from ms_unireid.apps.search.engines.milvus import MilvusStore
from ms_unireid.apps.search.index_writer import IndexWriter
from ms_unireid.apps.search.manifest import Photo
from ms_unireid.apps.web.page_query import Found
from ms_unireid.errors import CheckpointError, UserError
from ms_unireid.evaluation.similarity import normalize_rows


@pytest.fixture(autouse=True)
def released():
    """Close the files, which have one user at a time."""
    yield
    server_manager_instance.release_all()


def call(*arguments: object) -> None:
    """Call the tool's main in this process."""
    load_tool("search.py").main([str(one) for one in arguments])


@pytest.fixture(scope="module")
def pushed(people, tmp_path_factory) -> Path:
    """Push the index of the people into a file; nothing but the progress and the summary is printed."""
    place = tmp_path_factory.mktemp("push") / "photos.db"
    done = run_tool("search.py", "push", "--index", people / "index", "--to", place)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["photos"], summary["sent"], summary["kind"]) == (16, 16, "exact")
    assert all(line.startswith("pushed: ") for line in re.split("[\r\n]+", done.stderr.strip())), done.stderr
    return place


def test_a_collection_is_searched_as_its_index(people, pushed, tmp_path, capsys):
    gallery, red = people / "gallery", people / "gallery" / "red_0.png"
    wanted = ("rank", "score", "photo", "person", "taken", "camera")

    def query(index: Path, *arguments: object) -> list[dict]:
        call("query", "--index", index, "--top-k", 6, "--json", tmp_path / "found.json", *arguments)
        (answer,) = json.loads((tmp_path / "found.json").read_text())
        assert answer["notes"] == [] and answer["index"] == PhotoIndex(people / "index").state
        return answer["hits"]

    for arguments in (
        ("--text", caption("red")),
        ("--photo", red, "--text", caption("blue"), "--weight", 0.3, "--camera", "Camera B"),
        ("--text", caption("green"), "--folder", gallery, "--after", "2024-05-02", "--fold"),
        ("--text", caption("red"), "--more", red, "--less", gallery / "blue_1.png"),
    ):
        ours, theirs = query(pushed, *arguments), query(people / "index", *arguments)
        for one, other in zip(ours, theirs, strict=True):
            assert {key: one[key] for key in wanted} == pytest.approx({key: other[key] for key in wanted}, abs=1e-3)
            assert len(one["same"]) == len(other["same"])
    found = query(pushed, "--text", caption("red"))
    first, most = found[0], max(hit["row"] for hit in found)
    assert 1 << 53 < most < 1 << 63 and str(most) in (tmp_path / "found.json").read_text()
    by_row = query(pushed, "--more", first["row"], "--fold", 0.9)
    assert by_row[0]["photo"] == first["photo"] and by_row[0]["same"]
    outputs = ("--sheet", tmp_path / "s.html", "--zip", tmp_path / "s.zip", "--figure", tmp_path / "s.png")
    query(pushed, "--text", caption("red"), *outputs, "--csv", tmp_path / "s.csv")
    assert f",{first['row']}," in (tmp_path / "s.csv").read_text() and "red_0.png" in (tmp_path / "s.html").read_text()
    assert sum(name.endswith(".png") for name in zipfile.ZipFile(tmp_path / "s.zip").namelist()) == 6
    capsys.readouterr()
    call("info", "--index", pushed)
    info = json.loads(capsys.readouterr().out)
    assert (info["photos"], info["cameras"], info["kind"], info["whole"]) == (16, 2, "exact", True)
    assert info["indexes"][0]["place"] == str(people / "index")


def test_the_page_serves_a_collection(people, pushed, tmp_path):
    store = MilvusStore(str(pushed))
    one = Found(store.row(people / "gallery" / "red_0.png"), people / "gallery" / "red_0.png")
    server_manager_instance.release_all()
    with served(pushed, tmp_path / "here", "runtime.graph_mode=false") as site:
        connection = http.client.HTTPConnection(urlsplit(site.address).netloc, timeout=60)
        row, of = one.mark.split(".")
        for path, status in (
            (f"/photo/{row}?of={of}", 200),
            (f"/photo/{row}?of=0", 404),
            ("/photo/0", 404),
            ("/", 200),
        ):
            connection.request("GET", path)
            answer = connection.getresponse()
            assert (answer.status, answer.read()[:2] == b"\xff\xd8") == (status, status == 200 and path != "/")
        with pytest.raises(UserError, match="another process uses it") as told:
            call("info", "--index", pushed)
        assert "\n" not in str(told.value)


def test_another_checkpoint_is_refused(people, pushed, tmp_path):
    other = tmp_path / "other.ckpt"
    other.write_bytes((people / "model.ckpt").read_bytes() + b"x")
    with pytest.raises(CheckpointError, match=r"is not the checkpoint that made .*photos\.db"):
        call("query", "--index", pushed, "--text", "a man", "--checkpoint", other)


def test_index_pushes_too_and_an_approximate_search_is_measured(people, tmp_path, capsys):
    index, place = tmp_path / "index", tmp_path / "photos.db"
    made = ("--photos", people / "gallery", "--checkpoint", people / "model.ckpt", "runtime.graph_mode=false")
    call("index", *made, "--output", index, "--to", f"{place}#mine")
    assert json.loads(capsys.readouterr().out)["pushed"]["sent"] == 16
    call("push", "--index", index, "--to", f"{place}#mine", "--kind", "hnsw", "--recall", 0.9)
    summary = json.loads(capsys.readouterr().out)
    assert summary["sent"] == 0 and min(summary["recall_at_10"].values()) >= 0.9
    assert summary["measured"][-1]["ef"] == summary["effort"]
    call("query", "--index", f"{place}#mine", "--text", caption("red"), "--top-k", 1)
    assert "red_" in capsys.readouterr().out


def test_a_killed_push_says_so_and_the_next_one_goes_on(tmp_path, capsys):
    put_photos(tmp_path / "photos", range(1))
    update(tmp_path / "index", tmp_path / "photos")
    writer, count = IndexWriter(tmp_path / "index", PhotoIndex(tmp_path / "index").describe()), 5_000
    feats = np.random.default_rng(0).standard_normal((count - 1, 32)).astype(np.float32)
    writer.append([Photo(1, f"{i}.png", 1, 1, i.to_bytes(32, "big")) for i in range(1, count)], normalize_rows(feats))
    writer.close()
    place = tmp_path / "photos.db"
    push = ("push", "--index", tmp_path / "index", "--to", place)
    started = subprocess.Popen(command("search.py", *push), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline, wal = time.monotonic() + LIMIT, place / "collections" / "photos" / "wal"
    while started.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            # Each of 2000 photos takes 374 bytes: the first call is written, the second is not.
            if sum(file.stat().st_size for file in wal.iterdir()) > 2500 * 374:
                os.kill(started.pid, signal.SIGKILL)
                break
        time.sleep(0.001)
    assert started.wait() == -signal.SIGKILL
    store = MilvusStore(str(place))
    before = store.count
    assert 0 < before < count and not store.whole and "stopped; finish it with" in store.notes[0]
    server_manager_instance.release_all()
    call(*push)
    assert json.loads(capsys.readouterr().out)["sent"] == count - before
    assert MilvusStore(str(place)).count == count


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("push", "--index", "absent", "--to", "new.db"), "is not an index"),
        (("push", "--index", "absent"), "--to"),
        (("push", "--to", "new.db"), "--index --forget"),
        (("push", "--index", "absent", "--to", "http://a:b@host"), "set MILVUS_TOKEN"),
        (("push", "--index", "absent", "--to", "new.db", "--recall", "0.9"), "belongs to an approximate search"),
        (("push", "--index", "absent", "--to", "new.db", "--kind", "hnsw", "--recall", "2"), "--recall 2.0"),
        (("push", "--forget", "x", "--to", "new.db"), "new.db: does not exist"),
        (("query", "--index", "new.db", "--text", "a man"), "does not exist; make it with"),
        (("query", "--index", "new.db", "--text", "a man", "--approximate"), "is for an index in a folder"),
        (("query", "--index", "ftp://host", "--text", "a man"), "expected http://HOST:19530"),
        (("info", "--index", "http://127.0.0.1:1"), "http://127.0.0.1:1: cannot be reached"),
        (("index", "--output", "new", "--to", "no/new.db"), "its folder does not exist"),
        (("index", "--output", "new", "--to", "http://127.0.0.1:1"), "http://127.0.0.1:1: cannot be reached"),
    ],
)
def test_mistakes_are_told_and_make_no_files(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as told:
        call(*arguments)
    assert "\n" not in str(told.value) and os.listdir(tmp_path) == []
