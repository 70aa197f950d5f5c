"""Drawings: strokes are rendered as drawn, and bad input from a browser is ignored or limited."""

import math
from xml.etree import ElementTree

import numpy as np
import pytest

from ms_unireid.apps.web.drawing import HEIGHT, MAX_POINTS, PEN_WIDTH, Drawing, to_svg

SIZE = (384, 128)


def drawn(*points: tuple, size=SIZE) -> Drawing:
    drawing = Drawing(size)
    drawing.pen_down(*points[0])
    for point in points[1:]:
        drawing.pen_move(*point)
    drawing.pen_up()
    return drawing


def ink(drawing: Drawing) -> np.ndarray:
    """Return which pixels are black, (H, W)."""
    return np.asarray(drawing.render().convert("L")) < 128


@pytest.mark.parametrize("size", [(384, 128), (96, 32), (256, 128), (128, 128), (224, 224)])
def test_the_sheet_has_the_aspect_ratio_of_the_model(size):
    drawing = Drawing(size)
    width, height = drawing.size
    assert height == HEIGHT and width / height == pytest.approx(size[1] / size[0], abs=1e-3)
    picture = drawing.render()
    assert picture.mode == "RGB" and picture.height / picture.width == pytest.approx(height / width, rel=0.01)
    assert np.asarray(picture).min() == 255


def test_a_line_is_where_it_was_drawn():
    found = ink(drawn((20, 100), (100, 100)))
    rows, columns = np.nonzero(found)
    assert rows.min() == pytest.approx(200 - PEN_WIDTH, abs=1.5) and rows.max() == pytest.approx(
        200 + PEN_WIDTH, abs=1.5
    )
    assert columns.min() == pytest.approx(40 - PEN_WIDTH, abs=1.5) and columns.max() == pytest.approx(
        200 + PEN_WIDTH, abs=1.5
    )
    assert found[200, 40:200].all()


def test_lines_are_black_on_white():
    pixels = np.asarray(drawn((0, 0), (120, 380), (10, 200)).render())
    assert set(np.unique(pixels)) == {0, 255}


def test_a_touch_is_a_dot():
    drawing = drawn((64, 192))
    rows, columns = np.nonzero(ink(drawing))
    assert (rows.mean(), columns.mean()) == (pytest.approx(384, abs=1), pytest.approx(128, abs=1))
    assert math.pi * PEN_WIDTH**2 == pytest.approx(len(rows), rel=0.35)
    assert 'points="64,192 64,192"' in to_svg(drawing.strokes)


def test_svg_and_picture_hold_the_same_points():
    drawing = drawn((10, 10), (20.04, 30), (50, 60))
    drawing.pen_down(1, 2)
    lines = ElementTree.fromstring(f"<svg>{to_svg(drawing.strokes)}</svg>").findall("polyline")
    assert [line.get("points") for line in lines] == ["10,10 20,30 50,60", "1,2 1,2"]
    assert to_svg(()) == ""


def test_undo_removes_the_latest_stroke():
    drawing = drawn((1, 1), (50, 50))
    first = drawing.strokes
    drawing.pen_down(60, 60)
    drawing.undo()
    assert drawing.strokes == first
    assert not drawing.pen_move(80, 80), "the pen is up after undo"
    drawing.undo()
    drawing.undo()
    assert drawing.strokes == drawing.latest == ()


def test_a_pen_that_is_up_draws_nothing():
    drawing = Drawing(SIZE)
    assert not drawing.pen_move(5, 5)
    drawing.pen_down(5, 5)
    drawing.pen_up()
    assert not drawing.pen_move(50, 50) and drawing.strokes == (((5, 5),),)


def test_the_pen_stays_on_the_sheet():
    assert drawn((-1e9, -5), (1e300, 1e300)).strokes == (((0, 0), (128, 384)),)


@pytest.mark.parametrize("value", [None, "7", math.nan, math.inf, [1], {}, 1j])
def test_invalid_coordinates_are_ignored(value):
    drawing = Drawing(SIZE)
    drawing.pen_down(value, 5)
    assert drawing.strokes == ()
    drawing.pen_down(5, 5)
    assert not drawing.pen_move(9, value) and drawing.strokes == (((5, 5),),)


def test_the_number_of_points_is_limited():
    drawing = drawn(*((i * 7 % 120, i * 11 % 380) for i in range(MAX_POINTS + 100)))
    assert len(drawing.strokes[0]) == MAX_POINTS
    drawing.pen_down(3, 3)
    assert len(drawing.strokes) == 1
    drawing.undo()
    drawing.pen_down(3, 3)
    assert drawing.strokes == (((3, 3),),)


def test_a_drawing_starts_with_earlier_strokes():
    first = drawn((1, 1), (50, 50))
    again = Drawing(SIZE, first.strokes)
    assert np.array_equal(ink(again), ink(first))
    again.pen_down(9, 9)
    assert again.strokes == (*first.strokes, ((9, 9),)) and len(first.strokes) == 1
