"""Queries of the page: checks, names and sketches."""

import pytest
from PIL import Image

from ms_unireid.apps.web.drawing import Stroke
from ms_unireid.apps.web.page_query import MAX_CHARACTERS, PageQuery
from ms_unireid.errors import QueryError

STROKES = (Stroke(((1.0, 1.0), (50.0, 300.0))),)
UPLOAD = Image.new("RGB", (16, 32), "red")


@pytest.mark.parametrize("text", ["", "   ", "\n\t\u2003"])
def test_an_empty_query_is_refused_and_a_sketch_suffices(text):
    with pytest.raises(QueryError, match="type a description, draw, or upload a sketch or a photo"):
        PageQuery(text).check()
    pictures = (UPLOAD,)
    for given in ({"strokes": STROKES}, {"uploads": pictures}, {"photos": pictures}, {"photo": 0}):
        PageQuery(text, **given).check()


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
        (PageQuery("a man", strokes=STROKES, weight=0.25), "drawing (25%) + “a man”"),
        (PageQuery(photo=7, photo_name="7.jpg"), "photo 7.jpg"),
    ],
)
def test_a_query_has_a_name(query, name):
    assert query.name() == name


def test_queries_compare_by_content():
    assert PageQuery("a", uploads=(UPLOAD,)) == PageQuery("a", uploads=(UPLOAD.copy(),))
    assert PageQuery("a", uploads=(UPLOAD,)) != PageQuery("a", uploads=(Image.new("RGB", (16, 32), "blue"),))
    assert PageQuery("a", strokes=STROKES) != PageQuery("a")
