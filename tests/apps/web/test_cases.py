"""Shortlists: kept photos, notes, and case files that may be damaged or of somebody else."""

import sqlite3

import pytest

from ms_unireid.apps.web.cases import MAX_KEPT, MAX_NOTE, Cases, Kept, Shortlist
from ms_unireid.errors import DataError, UserError


def kept(name: str) -> Kept:
    return Kept(f"/photos/{name}.jpg", b"x" * 32, 0.5, "“a man”")


def test_a_case_outlives_the_program(tmp_path):
    cases = Cases(tmp_path / "new" / "cases")
    first = cases.open("Station, north 1".replace(",", ""))
    for name in ("b", "a", "c", "b"):
        first.keep(kept(name))
    first.note("/photos/a.jpg", "  the bag\nis his \ud800 ")
    first.remove("/photos/c.jpg")
    first.close()
    assert cases.names == ["Station north 1"]
    photos = cases.open("Station north 1").photos()
    assert [photo.path for photo in photos] == ["/photos/b.jpg", "/photos/a.jpg"]
    assert photos[1].note == "the bag is his ?" and photos[0]._replace(added="") == kept("b") and photos[0].added


def test_two_pages_use_one_case(tmp_path):
    one, other = (Cases(tmp_path).open("case") for _ in range(2))
    one.keep(kept("a"))
    other.keep(kept("b"))
    assert one.photos() == other.photos() and len(one.photos()) == 2


def test_a_list_and_its_notes_have_limits():
    photos = Shortlist()
    for number in range(MAX_KEPT):
        photos.keep(kept(str(number)))
    with pytest.raises(UserError, match="at most 300 photos"):
        photos.keep(kept("more"))
    photos.remove(kept("0").path)
    with pytest.raises(UserError, match="at most 300 photos"):
        photos.keep(kept("0"), kept("more"))  # all or none
    photos.keep(kept("0"), kept("1"))
    assert len(photos.photos()) == MAX_KEPT and photos.photos()[-1].path == kept("0").path
    photos.note("/photos/0.jpg", "n" * (MAX_NOTE + 1))
    assert len(photos.photos()[-1].note) == MAX_NOTE


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/etc/passwd", "a\0b", "-x", " x", "x" * 81, "a\nb", "a\ud800b"]
)
def test_a_name_stays_in_the_folder(tmp_path, name):
    with pytest.raises(DataError, match="name a case with letters"):
        Cases(tmp_path).open(name)
    assert list(tmp_path.iterdir()) == []


def test_another_file_is_refused_and_stays(tmp_path):
    cases = Cases(tmp_path)
    (tmp_path / "text.case").write_text("these are my notes" * 99)
    with sqlite3.connect(tmp_path / "other.case") as other:
        other.execute("CREATE TABLE kept (path TEXT)")
    (tmp_path / "folder.case").mkdir()
    (tmp_path / "link.case").symlink_to(tmp_path / "text.case")
    for name in ("text", "other", "folder", "link"):
        before = (tmp_path / f"{name}.case").read_bytes() if name != "folder" else b""
        with pytest.raises(DataError, match="choose another name"):
            cases.open(name)
        assert name == "folder" or (tmp_path / f"{name}.case").read_bytes() == before


def test_a_damaged_case_is_told(tmp_path):
    cases = Cases(tmp_path)
    cases.open("case").keep(kept("a"))
    with sqlite3.connect(tmp_path / "case.case") as file:
        file.execute("UPDATE kept SET sha256 = 'text'")
    with pytest.raises(DataError, match="a value has another type"):
        cases.open("case").photos()


def test_no_damage_of_a_file_makes_a_traceback(tmp_path):
    cases = Cases(tmp_path)
    cases.open("case").keep(kept("a"))
    whole = (tmp_path / "case.case").read_bytes()
    for place in range(0, len(whole), 37):
        (tmp_path / "case.case").write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
        try:
            cases.open("case").photos()
        except UserError as error:
            assert "case.case" in str(error) and "\n" not in str(error)


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another --cases"):
        Cases(tmp_path / "file" / "cases")
