"""Photos handed over: tables, a sheet without anything that runs, and a ZIP file of the indexed photos only."""

import csv
import io
import json
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import pytest
from apps.search.index_factory import put_photos, update
from fuzz.fuzzing import tries
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ms_unireid.apps.search.engines.embedded import PhotoIndex
from ms_unireid.apps.search.handover import THUMBNAIL, Entry, HandOver
from ms_unireid.apps.search.queries import Hit

EVIL = "<script>alert(1)</script>\"' onerror=x &amp; \x1b[2J"


@pytest.fixture
def index(tmp_path) -> PhotoIndex:
    put_photos(tmp_path / "photos", range(4))
    Image.new("RGB", (900, 300), "red").save(tmp_path / "photos" / "a <b> & 'c' ..jpg")
    update(tmp_path / "index", tmp_path / "photos")
    return PhotoIndex(tmp_path / "index")


def hit(index: PhotoIndex, row: int, rank: int = 1, **more) -> Hit:
    return Hit(rank, -0.25, row, index.path(row), **more)


def handed(index: PhotoIndex, *notes: str, query: str = "q") -> HandOver:
    entries = [Entry(query, hit(index, row, row + 1, camera="=1+1"), note) for row, note in enumerate(notes)]
    return HandOver(index, tuple(entries), "2026-01-02T03:04:05+00:00")


class Elements(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.sources, self.texts, self.open = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        assert not [name for name, _ in attributes if name.startswith("on") or name == "href"]
        self.sources += [value for name, value in attributes if name == "src"]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_csv_and_json_name_the_query_the_index_and_the_model(index):
    found = handed(index, "seen\r\nhere", "", query="-a query")
    first, second = csv.DictReader(io.StringIO(found.to_csv()))
    assert (first["query"], first["score"], first["camera"], first["note"]) == (
        "'-a query", "-0.25", "'=1+1", "seen\nhere",
    )  # fmt: skip
    listed = found.to_json()
    assert [one["note"] for one in listed["photos"]] == ["seen\r\nhere", ""]
    for key in ("index", "index_id", "checkpoint", "checkpoint_sha256", "date"):
        assert listed[key] and second[key] == listed[key]
    assert listed["photos"][1]["photo"] == second["photo"] == str(index.path(1)) and len(listed["index_id"]) == 32
    assert HandOver(index, ()).to_csv().count("\n") == 1 and HandOver(index, ()).to_json()["photos"] == []


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\n", " =", "\uff1d"])
def test_no_cell_is_a_formula(index, start):
    text = f"{start}HYPERLINK()"
    one = Entry(text, hit(index, 0, person=text, camera=text), text)
    (row,) = csv.DictReader(io.StringIO(HandOver(index, (one,)).to_csv(), newline=""))
    assert [row[key] for key in ("query", "person", "camera", "note")] == [f"'{text}"] * 4
    assert float(row["score"]) == -0.25


def test_a_sheet_shows_every_photo_and_runs_nothing(index):
    page = handed(index, EVIL, "", "two\nlines", "", "", query=EVIL).to_sheet()
    found = Elements(page)
    assert not found.open and "script" not in found.tags and found.tags.count("img") == 5
    text = "".join(found.texts)
    assert "two\nlines" in text and "\x1b" not in page and text.count("<script>alert(1)</script>") == 2
    assert all(source.startswith("data:image/jpeg;base64,") for source in found.sources)
    assert all(str(index.path(row)) in text for row in range(5)) and "@page { size: A4" in page
    assert "default-src 'none'" in page


def test_pictures_on_a_sheet_are_small_jpegs(index):
    import base64

    for source in Elements(handed(index, *[""] * 5).to_sheet()).sources:
        with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as picture:
            assert picture.format == "JPEG" and picture.width <= THUMBNAIL[0] and picture.height <= THUMBNAIL[1]


def test_a_zip_file_has_each_photo_once_as_it_was_indexed(index):
    found, file = handed(index, *"abcde"), io.BytesIO()
    twice = HandOver(index, found.entries + found.entries[:2])
    assert twice.write_zip(file) == []
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if name.startswith("photos/")]
        assert len(names) == 5 and archive.testzip() is None and len(archive.namelist()) == 7
        rows = list(csv.DictReader(io.StringIO(archive.read("photos.csv").decode())))
        listed = json.loads(archive.read("photos.json"))["photos"]
        assert [row["file"] for row in rows] == [one["file"] for one in listed] == names + names[:2]
        for row in listed:
            assert archive.read(row["file"]) == Path(row["photo"]).read_bytes() and row["missing"] == ""
    assert names[4] == "photos/0005_a_b_c_ ..jpg".replace(" ", "")


def test_photos_that_are_gone_or_changed_are_named(index):
    index.path(0).unlink()
    index.path(1).write_bytes(index.path(2).read_bytes())
    found, file = handed(index, "", "", ""), io.BytesIO()
    gone, changed = found.write_zip(file)
    assert "does not exist" in gone and "has changed since it was indexed" in changed
    with zipfile.ZipFile(file) as archive:
        assert [name for name in archive.namelist() if name.startswith("photos/")] == ["photos/0003_002.png"]
        listed = json.loads(archive.read("photos.json"))["photos"]
    assert [one["missing"] for one in listed] == [gone, changed, ""] and listed[0]["file"] == ""
    page = Elements(found.to_sheet())
    assert page.tags.count("img") == 1 and {gone, changed} <= set(page.texts)


def test_another_state_of_the_index_gives_the_photo_and_not_its_row(index, tmp_path):
    old = handed(index, *"abcde").entries
    index.path(0).unlink()
    update(tmp_path / "index")
    now, file = HandOver(PhotoIndex(tmp_path / "index"), old), io.BytesIO()
    (missing,) = now.write_zip(file)
    assert "is not among the 4 photos" in missing
    with zipfile.ZipFile(file) as archive:
        for one in json.loads(archive.read("photos.json"))["photos"][1:]:
            assert archive.read(one["file"]) == Path(one["photo"]).read_bytes()


@tries(200)
@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_any_text_is_a_text_in_every_form(tmp_path_factory, name, camera, note):
    folder = tmp_path_factory.getbasetemp() / "any"
    if not folder.exists():
        put_photos(folder / "photos", range(1))
        update(folder / "index", folder / "photos")
    index = PhotoIndex(folder / "index")
    strange = Hit(1, 0.5, 0, Path("/", *name.replace("\0", "").split("/")), camera=camera)
    found, file = HandOver(index, (Entry(name, strange, note),)), io.BytesIO()
    page = Elements(found.to_sheet())
    assert not page.open and set(page.tags) <= {
        "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "p", "dl", "dt", "dd", "section",
        "article", "div",
    }  # fmt: skip
    assert len(list(csv.reader(io.StringIO(found.to_csv(), newline="")))) == 2
    found.write_zip(file)
    with zipfile.ZipFile(file) as archive:
        assert json.loads(archive.read("photos.json"))["photos"][0]["note"] == note
        assert archive.namelist() == ["photos.csv", "photos.json"]
