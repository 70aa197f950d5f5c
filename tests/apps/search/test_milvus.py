"""Search in Milvus against the index on disk: milvus-lite in a file, and a server of the same protocol."""

import contextlib
import json
import resource
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from apps.search.index_factory import DIM, colour_of, make_earlier, put_photo, put_photos, update
from apps.search.milvus_server import running
from milvus_lite.server_manager import server_manager_instance

from ms_unireid.apps.search import pushing
from ms_unireid.apps.search.engines.embedded import PhotoIndex
from ms_unireid.apps.search.engines.milvus import MilvusStore, expression
from ms_unireid.apps.search.engines.milvus_client import parse_address
from ms_unireid.apps.search.engines.milvus_collection import Collection
from ms_unireid.apps.search.engines.opening import open_store
from ms_unireid.apps.search.filters import Filter
from ms_unireid.apps.search.pushing import Push, choose_effort, forget
from ms_unireid.errors import ConfigError, DataError, QueryError, UserError

HOSTILE = (
    'quo"te',
    "apo'strophe",
    "back\\slash",
    "per%cent",
    "under_score",
    "new\nline",
    "tab\t",
    "日本",
    "{brace}",
    "x0",
)
TIME = "IMG_20240501_1230{:02d}.png"


def put_all(folder: Path) -> Path:
    """Write photos in folders of hostile names, some with a time or a camera in their names."""
    for number, name in enumerate(HOSTILE):
        put_photo(folder / name / f"{number:04d}_c{number % 3}s1_.png", colour_of(3 * number))
        put_photo(folder / name / "inside" / TIME.format(number), colour_of(3 * number + 1))
        put_photo(folder / f"{name}0" / "plain.png", colour_of(3 * number + 2))
    for name in ("b", "a", "c"):  # the same feature three times
        put_photo(folder / "same" / f"{name}.png", colour_of(400))
    return folder


def make(folder: Path) -> Path:
    """Index them."""
    put_all(folder / "photos")
    update(folder / "index", folder / "photos")
    return folder / "index"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("milvus"))


@pytest.fixture(autouse=True)
def released():
    """Close the files at the end of each test."""
    yield
    server_manager_instance.release_all()


@pytest.fixture(params=["file", "server"])
def place(request, tmp_path):
    """Yield a file for milvus-lite, and the address of a server that has float16."""
    if request.param == "file":
        yield str(tmp_path / "photos.db")
    else:
        with running(tmp_path / "server") as address:
            yield address


def push(index: Path, place: str, kind: str | None = None) -> dict:
    return Push(PhotoIndex(index), parse_address(place), kind).run(lambda done, count: None)


def queries(count: int = 6) -> np.ndarray:
    feats = np.zeros((count, DIM), np.float32)
    feats[:, :4] = np.random.default_rng(0).standard_normal((count, 4))
    return feats


def test_the_same_ten_hits_in_the_same_order(made, place):
    index = PhotoIndex(made)
    summary = push(made, place)
    assert (summary["sent"], summary["deleted"], summary["kind"]) == (33, 0, "exact")
    store = open_store(place)
    assert store.count == 33 and store.whole and store.notes == [] and not store.has_changed()
    for where in (None, Filter(cameras=("1", "2")), Filter(after="2024-05-01T12:30:03")):
        rows, scores = store.search(queries(), 10, where)
        exact, exact_scores = index.search(queries(), 10, where)
        np.testing.assert_allclose(scores, exact_scores, atol=1e-3)
        found = [[store.path(row) for row in one] for one in rows.tolist()]
        assert found == [[index.path(row) for row in one] for one in exact.tolist()]
    for ours, theirs in zip(rows[0].tolist(), exact[0].tolist(), strict=True):
        for fact in ("person", "taken", "camera", "sha256", "content"):
            assert getattr(store, fact)(ours) == getattr(index, fact)(theirs)
    np.testing.assert_allclose(store.features_of(rows[0]), index.features_of(exact[0]), atol=1e-6)
    for fact in ("folders", "cameras", "persons", "times", "dim", "unreadable"):
        assert getattr(store, fact) == getattr(index, fact)
    assert store.names_all and store.about["checkpoint"] == index.about["checkpoint"]


def test_filters_are_those_of_the_index(made, place):
    index = PhotoIndex(made)
    push(made, place)
    store, photos = MilvusStore(place), made.parent / "photos"
    filters = [Filter(folders=(str(photos / name),)) for name in HOSTILE]
    filters += [Filter(folders=(f"{photos}/",)), Filter(folders=("/",)), Filter(folders=(str(photos), "/elsewhere"))]
    filters += [Filter(cameras=HOSTILE), Filter(persons=('") or (id > 0',)), Filter(before="2024-05-01T12:30:05")]
    filters += [Filter((str(photos / HOSTILE[0]),), ("0", "1")), Filter(cameras=("1",), after="2024-05-01")]
    assert [store.passing_count(one) for one in filters] == [index.passing_count(one) for one in filters]
    with pytest.raises(QueryError, match="no photo passes the filter by camera; the index has 0, 1, 2"):
        store.chosen(Filter(cameras=("7",)))
    assert expression(Filter()) == "" and store.search(queries(1), 5, Filter(cameras=("7",)))[0].shape == (1, 0)


def test_equal_scores_come_in_the_order_of_their_paths_and_rows_are_numbers_of_63_bits(made, tmp_path):
    push(made, str(tmp_path / "photos.db"))
    store, same = MilvusStore(str(tmp_path / "photos.db")), made.parent / "photos" / "same"
    (query,) = store.features_of([store.row(same / "c.png")])
    for k in (1, 2, 3):
        rows, _ = store.search(query[None], k)
        assert [store.path(row) for row in rows[0].tolist()] == [same / "a.png", same / "b.png", same / "c.png"][:k]
    assert store.row(same / ".." / "same" / "a.png") == rows[0, 0] and rows.dtype == np.int64
    assert not any(map(store.has, (0, -1, 1 << 62, 1 << 63, 1 << 70)))
    with pytest.raises(QueryError, match="is not among the 33 photos"):
        store.row(same / "d.png")
    with pytest.raises(IndexError):
        store.path(5)
    with pytest.raises(QueryError, match="at most 16,384"):
        store.search(query[None], 20_000)


def test_photos_of_an_object_store_keep_their_urls(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    for file in put_photos(tmp_path / "photos", range(4)):
        fsspec.filesystem("memory").put(str(file), f"/bucket/all/{file.name}")
    update(tmp_path / "index", "memory://bucket/all", tmp_path / "photos")
    index = PhotoIndex(tmp_path / "index")
    push(tmp_path / "index", str(tmp_path / "photos.db"))
    store = MilvusStore(str(tmp_path / "photos.db"))
    rows, _ = store.search(queries(1), 8)
    assert {str(store.path(row)) for row in rows[0].tolist()} == set(map(str, index.photos))
    for row, path in enumerate(index.photos):
        assert store.content(store.row(path)) == index.content(row)
    where = Filter(folders=("memory://bucket",))
    assert store.passing_count(where) == index.passing_count(where) == 4 and store.folders == index.folders


def test_a_push_sends_what_is_new_and_deletes_what_is_gone_of_its_own_index(tmp_path, place):
    first, second = (make(tmp_path / name) for name in ("first", "second"))
    push(first, place)
    push(second, place)
    store, photos = MilvusStore(place), first.parent / "photos"
    assert store.count == 66 and store.cameras == {"0": 8, "1": 6, "2": 6}
    (photos / "same" / "a.png").unlink()
    put_photo(photos / "same" / "b.png", colour_of(401))
    put_photos(photos / "new", range(5))
    update(first)
    summary = push(first, place)
    assert (summary["photos"], summary["sent"], summary["deleted"]) == (37, 6, 1)
    assert push(first, place)["sent"] == 0 and store.has_changed()
    store = store.reopened()
    assert store.count == 70 and not store.has_changed() and str(photos / "new") in store.folders
    assert store.sha256(store.row(photos / "same" / "b.png")) == PhotoIndex(first).sha256(
        PhotoIndex(first).row(photos / "same" / "b.png")
    )
    gone = next(one["id"] for one in store.describe()["indexes"] if one["place"] == str(first))
    with pytest.raises(DataError, match="has no photos of an index 'other'"):
        forget(parse_address(place), "other")
    assert forget(parse_address(place), gone)["forgotten"] == 37
    store = store.reopened()
    assert store.count == 33 and store.whole and not any("first" in folder for folder in store.folders)


def test_a_stopped_push_says_so_and_goes_on(made, tmp_path, place, monkeypatch):
    monkeypatch.setattr(pushing, "_BATCH", 10)

    def stop(done: int, count: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Push(PhotoIndex(made), parse_address(place)).run(stop)
    store = MilvusStore(place)
    assert (store.count, store.whole) == (20, False)
    (note,) = store.notes
    assert f"the push of {made} stopped; finish it with" in note and f"push --index {made} --to {place}" in note
    assert push(made, place)["sent"] == 13
    assert store.reopened().whole and store.reopened().notes == []
    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(Collection, "build_index", lambda *_: stop(20, 33))
        push(made, place, "hnsw")
    assert not MilvusStore(place).whole
    summary = push(made, place, "hnsw")
    assert (summary["sent"], summary["kind"]) == (0, "hnsw") and MilvusStore(place).whole


def test_a_full_disk_is_one_line_and_the_next_push_goes_on(tmp_path, monkeypatch):
    put_photos(tmp_path / "photos", range(400))
    update(tmp_path / "index", tmp_path / "photos")
    place, limits = str(tmp_path / "photos.db"), resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(pushing, "_BATCH", 50)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"photos.db: \w+ failed .*File too large.*the next push goes on") as told:
            push(tmp_path / "index", place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(told.value)
    server_manager_instance.release_all()
    before = MilvusStore(place)
    assert 0 < before.count < 400 and not before.whole
    assert push(tmp_path / "index", place)["sent"] == 400 - before.count
    assert before.reopened().count == 400


def test_an_approximate_search_is_measured_and_its_effort_is_kept(made, place):
    index = PhotoIndex(made)
    for kind, parameter in {"hnsw": "ef", "diskann": "search_list", "ivf-pq": "nprobe"}.items():
        if place.endswith(".db") and kind != "hnsw":
            with pytest.raises(ConfigError, match=f"--kind {kind}: milvus-lite has none; push to a server"):
                push(made, place, kind)
            continue
        pushed = Push(index, parse_address(place), kind)
        assert pushed.run(lambda done, count: None)["kind"] == kind
        assert MilvusStore(place).about["effort"] is None
        found = choose_effort(pushed, {"queries": queries(), "photos": index.features[::9].astype(np.float32)}, 0.8)
        assert min(found["recall_at_10"].values()) >= 0.8 and found["measured"][-1][parameter] == found["effort"]
        store = MilvusStore(place)
        assert (store.about["kind"], store.about["effort"]) == (kind, found["effort"])
        assert store.about["recall_at_10"] == found["recall_at_10"] and len(store.search(queries(), 10)[0]) == 6
    assert push(made, place)["kind"] == kind if "http" in place else "hnsw"
    assert push(made, place, "exact")["kind"] == "exact" and MilvusStore(place).about["effort"] is None


def test_an_index_of_an_earlier_version_is_not_pushed(tmp_path):
    update(tmp_path / "index", put_photos(tmp_path / "photos", range(3))[0].parent)
    make_earlier(tmp_path / "index", 2)
    with pytest.raises(DataError, match=r"earlier version; bring it up to date with .*index --output"):
        push(tmp_path / "index", str(tmp_path / "photos.db"))
    assert not (tmp_path / "photos.db").exists()


def test_a_collection_of_another_checkpoint_is_refused(made, tmp_path, place):
    push(made, place)
    put_photos(tmp_path / "other" / "photos", range(3))
    update(tmp_path / "other" / "index", tmp_path / "other" / "photos", content=b"other weights")
    with pytest.raises(DataError, match=r"features of another checkpoint .* under another name, .*#NAME"):
        push(tmp_path / "other" / "index", place)
    push(tmp_path / "other" / "index", f"{place}#other")
    assert MilvusStore(f"{place}#other").count == 3 and MilvusStore(place).count == 33
    assert MilvusStore(f"{place}#other").place == f"{place}#other"


def test_what_is_no_collection_of_photos_is_told_and_left_alone(made, place):
    push(made, place)
    client = Collection(parse_address(place))
    schema = client._client.create_schema()
    schema.add_field("id", client.types.INT64, is_primary=True)
    schema.add_field("vector", client.types.FLOAT_VECTOR, dim=4)
    for name in ("foreign", "half_about"):
        client.call("create_collection", name, schema=schema)
    for name, message in (("foreign", "has other fields"), ("half", "half_about has other fields")):
        with pytest.raises(DataError, match=message):
            push(made, f"{place}#{name}")
    assert sorted(client.call("list_collections")) == ["foreign", "half_about", "photos", "photos_about"]
    with pytest.raises(DataError, match=r"has no collection absent; make it with .*push --index INDEX --to"):
        MilvusStore(f"{place}#absent")
    for change, message in (
        ({"format": 2}, "has format 2, expected 1; use the version"),
        ({"kind": "magic"}, "kind.* is 'magic'; expected one of"),
        ({"dim": "x"}, "dim.* expected a whole number"),
    ):
        client.put({"model": {**client.about, **change}})
        with pytest.raises(DataError, match=message):
            MilvusStore(place)
    client.put({"model": client.about, "index/x": {"id": 3}})
    with pytest.raises(DataError, match="is damaged or another program's"):
        MilvusStore(place)


@pytest.mark.parametrize(
    "change",
    [
        {"id": "1"},
        {"distance": float("nan")},
        {"folder": "relative"},
        {"name": "../../x"},
        {"digest": None},
        {"person": 3},
        {"taken": b"x"},
        None,
    ],
)
def test_an_answer_of_another_form_is_told_as_damage(made, tmp_path, monkeypatch, change):
    place = str(tmp_path / "photos.db")
    push(made, place)
    store, call = MilvusStore(place), Collection.call

    def answer(self, method, *arguments, **options):
        found = call(self, method, *arguments, **options)
        if method == "search":
            plain = [dict(id=hit["id"], distance=hit["distance"], entity=dict(hit["entity"])) for hit in found[0]]
            found = [plain] if change else None
            for key, value in (change or {}).items():
                (plain[0] if key in plain[0] else plain[0]["entity"])[key] = value
        return found

    monkeypatch.setattr(Collection, "call", answer)
    with pytest.raises(DataError, match="photos is damaged or another program's"):
        store.search(queries(1), 3)


def test_names_that_are_too_many_are_kept_in_part(made, tmp_path, monkeypatch):
    monkeypatch.setattr(pushing, "_NAMES", 2)
    monkeypatch.setattr(pushing, "_PART", 10)
    push(made, str(tmp_path / "photos.db"))
    store = MilvusStore(str(tmp_path / "photos.db"))
    assert not store.names_all and store.cameras == {"0": 4, "1": 3} and len(store.folders) == 2
    monkeypatch.undo()
    changed = tmp_path / "index"
    shutil.copytree(made, changed)
    update(changed, put_photos(tmp_path / "more", range(1))[0].parent)
    push(changed, str(tmp_path / "photos.db"))
    assert store.reopened().cameras == PhotoIndex(changed).cameras and store.reopened().names_all


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://user:secret@host:19530", "host: has a name or password in its address; set MILVUS_TOKEN"),
        ("https://token@host", "host: has a name or password"),
        ("ftp://host", "expected http://HOST:19530"),
        ("http://", "expected http://HOST:19530"),
        ("http://host:99999", "expected http://HOST:19530"),
        ("http://host:19530?x=1", "expected http://HOST:19530"),
        ("photos.db#a-b", "collection 'a-b': expected letters"),
        ("photos.txt", "expected http://HOST:19530"),
    ],
)
def test_an_address_that_is_none_is_told_without_its_password(address, message):
    with pytest.raises(ConfigError, match=message) as told:
        parse_address(address)
    assert "secret" not in str(told.value) and "token@" not in str(told.value)


def test_databases_that_cannot_be_opened_are_told_in_a_line(made, tmp_path, monkeypatch):
    for name, make_it, message in (
        ("absent.db", lambda path: None, "absent.db: does not exist; make it with"),
        ("file.db", lambda path: path.write_text("x"), "is no database of milvus-lite 3"),
        ("other.db", lambda path: (path / "x").mkdir(parents=True), "is no database of milvus-lite 3"),
    ):
        make_it(tmp_path / name)
        with pytest.raises(DataError, match=message):
            MilvusStore(str(tmp_path / name))
    assert not (tmp_path / "absent.db").exists()
    with pytest.raises(DataError, match="its folder does not exist"):
        push(made, str(tmp_path / "no" / "photos.db"))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(UserError, match=r"http://127.0.0.1:\d+: cannot be reached .* MILVUS_TOKEN"):
            MilvusStore(f"http://127.0.0.1:{closed.getsockname()[1]}")
    monkeypatch.setenv("MILVUS_USER", "name")
    with pytest.raises(ConfigError, match="one of them is not set"):
        MilvusStore("http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(UserError, match=r"search in Milvus.*pip install '.\[milvus\]'"):
        MilvusStore("http://127.0.0.1:1")


def test_a_file_that_another_process_uses_or_that_is_damaged_is_told(made, tmp_path):
    place = tmp_path / "photos.db"
    push(made, str(place))
    server_manager_instance.release_all()
    code = f"import pymilvus; pymilvus.MilvusClient({str(place)!r}); print(1, flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as other:
        assert other.stdout.readline() == "1\n"
        with pytest.raises(UserError, match=r"photos\.db: another process uses it"):
            MilvusStore(str(place))
        other.communicate("\n")
    manifest = place / "collections" / "photos" / "manifest.json"
    content = json.loads(manifest.read_text())
    for damaged in ("{", "[]", json.dumps({**content, "version": "x"})):
        manifest.write_text(damaged)
        for old in manifest.parent.glob("manifest.json.*"):
            old.unlink()
        with pytest.raises(UserError) as told:
            MilvusStore(str(place))
        assert "\n" not in str(told.value) and str(place) in str(told.value)
        server_manager_instance.release_all()


def test_a_server_that_is_lost_is_told_and_the_next_push_goes_on(made, tmp_path, monkeypatch):
    monkeypatch.setattr(pushing, "_BATCH", 10)
    with contextlib.ExitStack() as server:
        address = server.enter_context(running(tmp_path / "server"))

        def lose(done: int, count: int) -> None:
            if done == 10:
                server.close()

        with pytest.raises(UserError, match=r"http://127.0.0.1:\d+: cannot be reached"):
            Push(PhotoIndex(made), parse_address(address)).run(lose)
    with running(tmp_path / "server") as again:
        assert not MilvusStore(again).whole
        assert push(made, again)["sent"] == 23 and MilvusStore(again).whole
