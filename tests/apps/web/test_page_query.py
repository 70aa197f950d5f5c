"""Queries of the page: checks, names, sketches, and the address that carries them."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ms_unireid.apps.search.filters import Filter
from ms_unireid.apps.web.drawing import Stroke
from ms_unireid.apps.web.page_query import COUNTS, MAX_CHARACTERS, Found, PageQuery, read_address
from ms_unireid.errors import QueryError

STROKES = (Stroke(((1.0, 1.0), (50.0, 300.0))),)
UPLOAD = Image.new("RGB", (16, 32), "red")
FOUND = Found(7, Path("/photos/7.jpg"))
KNOWN = {name: 1 for name in ("a", "b/c", "ü & =", "'")}
INDEX = SimpleNamespace(
    has={*range(9), 2**63 - 1}.__contains__,
    path=lambda row: Path(f"/photos/{row}.jpg"),
    names_all=True,
    folders=KNOWN,
    cameras=KNOWN,
    persons=KNOWN,
)


@pytest.mark.parametrize("text", ["", "   ", "\n\t\u2003"])
def test_an_empty_query_is_refused_and_a_sketch_suffices(text):
    with pytest.raises(QueryError, match="type a description, draw, or upload a sketch or a photo"):
        PageQuery(text).check()
    pictures = (UPLOAD,)
    for some in (
        {"strokes": STROKES},
        {"uploads": pictures},
        {"photos": pictures},
        {"start": FOUND},
        {"more": (FOUND,)},
    ):
        PageQuery(text, **some).check()


def test_the_length_of_a_description_is_limited():
    PageQuery("x" * MAX_CHARACTERS).check()
    with pytest.raises(QueryError, match="10,001 characters; the limit is 10,000"):
        PageQuery("x" * (MAX_CHARACTERS + 1)).check()


def test_a_drawing_is_rendered_for_the_model():
    assert PageQuery("a man").drawing((32, 16)) is None and not PageQuery("a man").has_pictures
    drawing = PageQuery(strokes=STROKES).drawing((32, 16))
    assert drawing.height == 2 * drawing.width and drawing.convert("L").getextrema() == (0, 255)


@pytest.mark.parametrize(
    ("query", "name"),
    [
        (PageQuery(" a  man\nin red "), "“a man in red”"),
        (PageQuery("x" * 61), f"“{'x' * 60}…”"),
        (PageQuery(strokes=STROKES), "drawing"),
        (PageQuery(uploads=(UPLOAD,)), "uploaded sketch"),
        (PageQuery(uploads=(UPLOAD, UPLOAD), photos=(UPLOAD,)), "2 uploaded sketches + uploaded photo"),
        (PageQuery(strokes=STROKES, photos=(UPLOAD,) * 3), "drawing + 3 uploaded photos"),
        (PageQuery(others=(("pencil", UPLOAD), ("infrared", UPLOAD))), "uploaded pencil × 1 + uploaded infrared × 1"),
        (PageQuery("a man", strokes=STROKES, weight=0.25), "drawing (25%) + “a man”"),
        (PageQuery(start=FOUND), "photo 7.jpg"),
        (PageQuery("a man", start=FOUND, more=(FOUND,), less=(FOUND,)), "photo 7.jpg (50%) + “a man” + 2 marked"),
        (PageQuery(more=(FOUND,)), "1 marked"),
    ],
)
def test_a_query_has_a_name(query, name):
    assert query.name() == name


def test_queries_compare_by_content():
    assert PageQuery("a", uploads=(UPLOAD,)) == PageQuery("a", uploads=(UPLOAD.copy(),))
    assert PageQuery("a", uploads=(UPLOAD,)) != PageQuery("a", uploads=(Image.new("RGB", (16, 32), "blue"),))
    assert PageQuery("a", strokes=STROKES) != PageQuery("a")


_WORDS = st.lists(st.sampled_from([*KNOWN]), max_size=3).map(tuple)
_PHOTOS = st.lists(st.integers(0, 8).map(lambda row: Found(row, INDEX.path(row))), max_size=4).map(tuple)


@settings(max_examples=200, deadline=None)
@given(
    st.builds(
        PageQuery,
        text=st.text(st.characters(exclude_categories=("Cs",)), max_size=200).map(str.strip),
        start=st.none() | _PHOTOS.filter(bool).map(lambda photos: photos[0]),
        more=_PHOTOS,
        less=_PHOTOS,
        weight=st.integers(0, 20).map(lambda steps: steps / 20),
        where=st.builds(Filter, _WORDS, _WORDS, _WORDS, after=st.sampled_from(("", "2024-05-01", "2024-05-01T12:30"))),
        fold=st.booleans(),
        top_k=st.sampled_from(COUNTS),
    )
)
def test_an_address_carries_the_query(query):
    assert read_address(query.address().removeprefix("/?"), INDEX) == query


def test_a_row_of_63_bits_survives_an_address():
    one = Found(2**63 - 1, INDEX.path(2**63 - 1))
    assert read_address(PageQuery(start=one, more=(one,)).address()[2:], INDEX).more == (one,)


def test_a_person_that_is_not_among_the_names_that_a_collection_keeps_can_be_asked_for():
    part = SimpleNamespace(**{**vars(INDEX), "names_all": False})
    assert read_address("person=other", part).where.persons == ("other",)
    with pytest.raises(QueryError, match="the camera 'other', which the page does not list"):
        read_address("camera=other", part)


def test_an_address_with_halves_of_surrogate_pairs_is_one():
    assert read_address(PageQuery("a \ud800 b").address()[2:], INDEX).text == "a ? b"


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300) | st.lists(st.sampled_from(
    ("q=a", "weight=nan", "weight=-1", "weight=1e9", "top=7", "top=1000", "after=x", "before=2024-02-30", "photo=7",
     "photo=7.x", "more=-1.0", "less=99999999999999.1", "folder=%00", "camera=%ff", "fold=", "&&", "=", "q=%ud800"),
)).map("&".join))  # fmt: skip
def test_any_address_is_a_query_or_names_what_is_missing(address):
    try:
        query = read_address(address, INDEX)
    except QueryError as error:
        assert re.search("no longer in the index|index does not have|expected a date|between them", str(error))
    else:
        assert 0 <= query.weight <= 1 and query.top_k in COUNTS
