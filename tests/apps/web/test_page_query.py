"""Queries of the page: checks, names and sketches."""

import pytest
from PIL import Image

from ms_unireid.apps.web.page_query import MAX_CHARACTERS, PageQuery
from ms_unireid.errors import QueryError

STROKES = (((1.0, 1.0), (50.0, 300.0)),)
UPLOAD = Image.new("RGB", (16, 32), "red")


@pytest.mark.parametrize("text", ["", "   ", "\n\t\u2003"])
def test_an_empty_query_is_refused_and_a_sketch_suffices(text):
    with pytest.raises(QueryError, match="type a description, or draw or upload a sketch"):
        PageQuery(text).check()
    for query in (PageQuery(text, strokes=STROKES), PageQuery(text, upload=UPLOAD), PageQuery(text, photo=0)):
        query.check()


def test_the_length_of_a_description_is_limited():
    PageQuery("x" * MAX_CHARACTERS).check()
    with pytest.raises(QueryError, match="10,001 characters; the limit is 10,000"):
        PageQuery("x" * (MAX_CHARACTERS + 1)).check()


def test_the_sketch_is_the_drawing_or_the_upload():
    assert PageQuery("a man").sketch((32, 16)) is None and not PageQuery("a man").has_sketch
    assert PageQuery(upload=UPLOAD).sketch((32, 16)) is UPLOAD
    drawing = PageQuery(strokes=STROKES).sketch((32, 16))
    assert drawing.height == 2 * drawing.width and drawing.convert("L").getextrema() == (0, 255)


@pytest.mark.parametrize(
    ("query", "name"),
    [
        (PageQuery(" a  man\nin red "), "“a man in red”"),
        (PageQuery("x" * 61), f"“{'x' * 60}…”"),
        (PageQuery(strokes=STROKES), "drawing"),
        (PageQuery(upload=UPLOAD), "uploaded sketch"),
        (PageQuery("a man", strokes=STROKES, weight=0.25), "drawing (25%) + “a man”"),
        (PageQuery(photo=7, photo_name="7.jpg"), "photo 7.jpg"),
    ],
)
def test_a_query_has_a_name(query, name):
    assert query.name() == name


def test_queries_compare_by_content():
    assert PageQuery("a", upload=UPLOAD) == PageQuery("a", upload=UPLOAD.copy())
    assert PageQuery("a", upload=UPLOAD) != PageQuery("a", upload=Image.new("RGB", (16, 32), "blue"))
    assert PageQuery("a", strokes=STROKES) != PageQuery("a")
