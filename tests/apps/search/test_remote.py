"""Photos in an object store: an S3 server in this process, and what users do with them."""

import io
import json
import socket
import zipfile
from pathlib import Path

import numpy as np
import pytest
from apps.search.index_factory import MeanColour, colour_of, expected, put_photo, put_photos, update
from distributed.test_index import checkpoint
from PIL import Image
from tool_runner import load_tool

from ms_unireid.apps.search.engines.embedded import PhotoIndex
from ms_unireid.apps.search.filters import Filter
from ms_unireid.apps.search.places import absolute, path_of
from ms_unireid.apps.search.queries import make_query
from ms_unireid.apps.web.photos import Photos
from ms_unireid.errors import ConfigError, DataError, EnvironmentProblem
from ms_unireid.files import open_regular, status_of

fsspec, boto3 = pytest.importorskip("fsspec"), pytest.importorskip("boto3")
COUNT = 10
SECRET = "not-to-be-shown"


@pytest.fixture(scope="module")
def server():
    from moto.server import ThreadedMotoServer

    started = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    started.start()
    yield started
    started.stop()


@pytest.fixture
def bucket(server, monkeypatch, tmp_path):
    """Set the environment of a user; return a bucket with photos."""
    address, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{address}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "user")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("HOME", str(tmp_path))
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    made = boto3.resource("s3").Bucket(f"photos-{tmp_path.name.replace('_', '-').lower()}"[:60].rstrip("-"))
    made.create()
    for number in range(COUNT):
        put(made, f"all/{number:03d}.png", number)
    return made


def put(bucket, name: str, number: int) -> str:
    """Store a photo; return its URL."""
    file = io.BytesIO()
    Image.new("RGB", (10, 20), colour_of(number)).save(file, "PNG")
    bucket.put_object(Key=name, Body=file.getvalue())
    return f"s3://{bucket.name}/{name}"


def numbers(index: Path) -> dict[str, np.ndarray]:
    found = PhotoIndex(index)
    return {str(path): found.features[row] for row, path in enumerate(found.photos)}


def test_an_update_reads_only_what_has_changed(bucket, tmp_path, monkeypatch):
    folder, index, odd = f"s3://{bucket.name}/all", tmp_path / "index", "sub folder/b #1?%20 é*[a].png"
    assert update(index, folder).photos == COUNT
    encoder = MeanColour()
    put(bucket, f"all/{odd}", 11)
    put(bucket, "all/000.png", 12)
    bucket.Object("all/009.png").delete()
    put(bucket, "all/moved.png", 9)
    put(bucket, "other/020.png", 20)  # not in the folder, although its name begins like it in `allx`
    put(bucket, "allx/021.png", 21)
    bucket.put_object(Key="all/text.txt", Body=b"text")
    bucket.put_object(Key="all/empty/", Body=b"")  # as consoles make folders
    bucket.put_object(Key="all/cut.png", Body=b"\x89PNG")
    for strange in ("all//twice.png", "all/./here.png", "all/sub/../up.png"):
        put(bucket, strange, 13)
    report = update(index, using=encoder)
    assert (report.photos, report.encoded, report.kept, report.copied) == (COUNT + 1, 2, COUNT - 2, 1)
    assert report.left_out == (f"{folder}/text.txt",)
    assert "no file can have this name" in report.skipped.pop(f"{folder}//twice.png")
    assert list(report.skipped) == [f"{folder}/cut.png"]  # the other strange names count as hidden
    found = numbers(index)
    for name, number in (("000.png", 12), (odd, 11), ("moved.png", 9), ("005.png", 5)):
        wanted = expected(put_photo(tmp_path / "local.png", colour_of(number)))
        np.testing.assert_allclose(found[f"{folder}/{name}"], wanted, atol=1e-3)
    opened = PhotoIndex(index)
    assert opened.folders == {folder: COUNT + 1, f"{folder}/sub folder": 1}
    assert opened.chosen(Filter((absolute(f"{folder}/sub folder/"),))) == 1
    assert opened.path(opened.row(path_of(f"{folder}/{odd}"))) == path_of(f"{folder}/{odd}")

    asked = []
    for name in ("info", "cat_file"):
        monkeypatch.setattr(path_of(folder).fs, name, asked.append)
    with pytest.raises(DataError, match="cannot be reached"):
        update(index)  # reads what could not be read before, and nothing else
    assert set(asked) == {f"{bucket.name}/all/cut.png"}


def test_folders_of_both_kinds_in_one_index(bucket, tmp_path):
    folder, index = f"s3://{bucket.name}/all", tmp_path / "index"
    put_photos(tmp_path / "here", range(30, 33))
    assert update(index, folder, tmp_path / "here").photos == COUNT + 3
    with pytest.raises(ConfigError, match=f"{folder}/sub: is inside {folder}"):
        put(bucket, "all/sub/001.png", 1)
        update(index, f"{folder}/sub/")
    assert update(index, f"{folder}/").photos == COUNT + 4  # the same folder
    assert update(index, removed=[f"{folder}/"]).photos == 3


def test_every_result_reads_the_photos(bucket, tmp_path, capsys):
    """Through the command line: table, sheet, ZIP and figure; and the pictures of the page."""
    folder, index = f"s3://{bucket.name}/all", tmp_path / "index"
    search = load_tool("search.py").main
    made_by = str(checkpoint(tmp_path / "model.ckpt"))
    search(["index", "--photos", folder, "--checkpoint", made_by, "--output", str(index)])
    assert json.loads(capsys.readouterr().out)["encoded"] == COUNT
    kinds = {"--json": "json", "--zip": "zip", "--sheet": "html", "--figure": "png"}
    outputs = {option: str(tmp_path / f"found.{kind}") for option, kind in kinds.items()}
    more = ["--heat-map", "--more", f"{folder}/003.png", "--folder", folder, "--top-k", "4"]
    written = [one for pair in outputs.items() for one in pair]
    search(["query", "--index", str(index), "--text", "a person", *more, *written])
    out, err = capsys.readouterr()
    assert out.count(f"{folder}/") == 4 + 1 and "warning" not in err
    hits = json.loads(Path(outputs["--json"]).read_text())[0]["hits"]
    with zipfile.ZipFile(outputs["--zip"]) as archive:
        assert archive.read(f"photos/0001_{hits[0]['photo'][-7:]}") == open_regular(path_of(hits[0]["photo"])).read()
    assert Path(outputs["--sheet"]).read_text().count("data:image/jpeg") == 4
    photos = Photos(type("Searcher", (), {"index": PhotoIndex(index)}))
    assert Image.open(io.BytesIO(photos.get(0))).size == Image.open(io.BytesIO(photos.get(0, "full"))).size == (10, 20)
    put(bucket, "all/000.png", 50)
    bucket.Object("all/001.png").delete()
    for row, why in ((0, "has changed since it was indexed"), (1, "does not exist")):
        with pytest.raises(DataError, match=f"{folder}/00{row}.png: .*{why}"):
            photos.get(row)
    assert SECRET not in "".join(file.read_bytes().decode("latin1") for file in index.iterdir()) + out + err


def test_a_store_out_of_reach_costs_no_photo(bucket, tmp_path, monkeypatch):
    """It is told in one line, which has no secret; nothing is skipped or removed, and the next run goes on."""
    folder, index = f"s3://{bucket.name}/all", tmp_path / "index"
    files = path_of(folder).fs
    read = files.cat_file

    def lost(path):
        if path.endswith("006.png"):
            raise ConnectionResetError(f"lost at {path}")
        return read(path)

    with monkeypatch.context() as patch, pytest.raises(DataError, match=r"006\.png: cannot be reached .*run it again"):
        patch.setattr(files, "cat_file", lost)
        update(index, folder)
    stopped = PhotoIndex(index)
    assert stopped.count < COUNT and (stopped.unreadable, stopped.whole) == (0, False)
    assert update(index).photos == COUNT
    with socket.socket() as silent:  # nothing listens there
        silent.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        with pytest.raises(DataError, match="cannot be reached") as told:
            update(index)
        assert SECRET not in str(told.value)
        put_photos(tmp_path / "here", range(30, 33))
        assert update(index, tmp_path / "here").unreachable == {folder: COUNT}


def test_wrong_urls(bucket, tmp_path, monkeypatch):
    index = tmp_path / "index"
    for url, error, why in (
        (f"s3://{bucket.name}/nothing", DataError, "no such folder, or nothing in it"),
        ("s3://no-such-bucket-here/all", DataError, "cannot be listed"),
        ("s3://", ConfigError, "names no folder"),
        ("unknown://bucket/all", ConfigError, "expected a kind that fsspec reads"),
        (f"s3://user:{SECRET}@bucket/all", ConfigError, "a URL with a password"),
    ):
        with pytest.raises(error, match=why) as told:
            update(index, url)
        assert SECRET not in str(told.value)
    assert not index.exists() or not PhotoIndex(index).count
    with pytest.raises(EnvironmentProblem, match="gcsfs"):
        update(index, "gs://bucket/all")
    monkeypatch.setitem(__import__("sys").modules, "upath", None)
    with pytest.raises(EnvironmentProblem, match=r"needs .*upath.*pip install '\.\[remote\]'"):
        update(index, f"s3://{bucket.name}/all")


def test_places():
    assert absolute("file:///a/b/") == absolute("/a/./b") == "/a/b"
    assert absolute("s3://bucket/a/") == "s3://bucket/a" and absolute("s3://bucket") == "s3://bucket"
    assert make_query("x", more="s3://bucket/a.png").more == (path_of("s3://bucket/a.png"),)
    assert make_query("x", more=path_of("s3://bucket/a.png")).more == (path_of("s3://bucket/a.png"),)
    assert make_query("x", more=Path("7")).more == (Path("7"),)


def test_a_file_system_without_states_compares_contents(tmp_path):
    """Without a tag or time each update compares the contents, and encodes nothing anew."""
    files = fsspec.filesystem("memory")
    for number in range(3):
        picture = put_photo(tmp_path / "one.png", colour_of(number))
        files.pipe_file(f"/here/{number}.png", picture.read_bytes())
    assert update(tmp_path / "index", "memory://here").encoded == 3
    assert update(tmp_path / "index").kept == 3
    assert status_of(path_of("memory://here/1.png")) != status_of(path_of("memory://here/1.png"))
