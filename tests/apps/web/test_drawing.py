"""Drawings: strokes are rendered as drawn, and bad input from a browser is ignored or limited."""

import math
import time
import zlib
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ms_unireid.apps.web.drawing import (
    ERASER_WIDTH,
    HEIGHT,
    MAX_POINTS,
    MAX_STATES,
    PEN_WIDTH,
    PEN_WIDTHS,
    Drawing,
    Stroke,
    to_svg,
)

SIZE = (384, 128)


def drawn(*points: tuple, size=SIZE) -> Drawing:
    drawing = Drawing(size)
    pull(drawing, *points)
    return drawing


def pull(drawing: Drawing, *points: tuple, width: float | None = PEN_WIDTH) -> None:
    """Pull a pen over the sheet, or the eraser if the width is None."""
    drawing.pen_down(*points[0], width)
    for point in points[1:]:
        drawing.pen_move(*point)
    drawing.pen_up()


def lines(drawing: Drawing) -> list[tuple]:
    return [stroke.points for stroke in drawing.strokes]


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
    pull(drawing, (1, 2))
    found = ElementTree.fromstring(f"<svg>{to_svg(drawing.strokes)}</svg>").findall("polyline")
    assert [line.get("points") for line in found] == ["10,10 20,30 50,60", "1,2 1,2"]
    assert to_svg(()) == ""


def test_a_pen_that_is_up_draws_nothing():
    drawing = Drawing(SIZE)
    assert not drawing.pen_move(5, 5) and not drawing.pen_up()
    pull(drawing, (5, 5))
    assert not drawing.pen_move(50, 50) and lines(drawing) == [((5, 5),)]


def test_the_pen_stays_on_the_sheet():
    assert lines(drawn((-1e9, -5), (1e300, 10**400))) == [((0, 0), (128, 384))]


@pytest.mark.parametrize("value", [None, "7", math.nan, math.inf, -math.inf, [1], {}, 1j])
def test_invalid_coordinates_are_ignored(value):
    drawing = Drawing(SIZE)
    drawing.pen_down(value, 5)
    assert not drawing.pen_up()
    drawing.pen_down(5, 5)
    assert not drawing.pen_move(9, value) and drawing.pen_up() and lines(drawing) == [((5, 5),)]


def test_the_number_of_points_is_limited():
    drawing = drawn(*((i * 7 % 120, i * 11 % 380) for i in range(MAX_POINTS + 100)))
    assert len(drawing.strokes[0].points) == MAX_POINTS
    pull(drawing, (3, 3))
    assert len(drawing.strokes) == 1
    drawing.undo()
    pull(drawing, (3, 3))
    assert lines(drawing) == [((3, 3),)]


def test_a_drawing_starts_with_earlier_strokes():
    first = drawn((1, 1), (50, 50))
    again = Drawing(SIZE, first.strokes)
    assert np.array_equal(ink(again), ink(first)) and not again.can_undo
    pull(again, (9, 9))
    assert again.strokes == (*first.strokes, Stroke(((9, 9),))) and len(first.strokes) == 1


# Pens.


def test_the_usual_pen_draws_as_before_there_were_others():
    """The numbers are of the revision with one pen."""
    drawing = drawn((20, 30), (60.5, 90.3), (100, 350))
    pull(drawing, (64, 192))
    pull(drawing, (10, 380), (118, 379), (0, 0), (128, 384))
    assert zlib.crc32(drawing.render().tobytes()) == 3296491522
    assert to_svg(drawing.strokes[1:2]) == (
        '<polyline points="64,192 64,192" fill="none" stroke="black" stroke-width="3" stroke-linecap="round" '
        'stroke-linejoin="round"/>'
    )


@pytest.mark.parametrize("width", PEN_WIDTHS)
def test_a_line_is_as_wide_as_its_pen(width):
    drawing = Drawing(SIZE)
    pull(drawing, (20, 100), (100, 100), width=width)
    assert ink(drawing)[:, 120].sum() == pytest.approx(2 * width, abs=1)
    assert f'stroke-width="{width:g}"' in to_svg(drawing.strokes)


def test_the_path_of_what_is_down_is_shown():
    drawing = Drawing(SIZE)
    assert drawing.path_svg() == ""
    drawing.pen_down(5, 5, 6.0)
    assert 'stroke="black" stroke-width="6"' in drawing.path_svg() and drawing.strokes == ()
    drawing.pen_down(5, 5, None)
    assert f'stroke="white" stroke-width="{ERASER_WIDTH:g}"' in drawing.path_svg() and len(drawing.strokes) == 1
    drawing.pen_up()
    assert drawing.path_svg() == "" and drawing.strokes == ()


# The eraser.


def test_the_eraser_cuts_a_line_in_two():
    """The line has two points only, far from the eraser."""
    drawing = Drawing(SIZE)
    pull(drawing, (10, 100), (110, 100), width=6.0)
    pull(drawing, (60, 50), (60, 150), width=None)
    left, right = drawing.strokes
    half = ERASER_WIDTH / 2
    assert left.width == right.width == 6 and left.points[0] == (10, 100) and right.points[1] == (110, 100)
    assert left.points[1] == (pytest.approx(60 - half, abs=1.1), 100) and left.points[1][0] <= 60 - half
    assert right.points[0] == (pytest.approx(60 + half, abs=1.1), 100) and right.points[0][0] >= 60 + half
    drawing.undo()
    assert lines(drawing) == [((10, 100), (110, 100))]


def test_the_eraser_leaves_other_strokes_as_they_are():
    drawing = drawn((10, 10), (20, 11), (30, 10))
    far = drawing.strokes[0]
    pull(drawing, (10, 200))
    pull(drawing, (8, 200), (110, 205), width=None)
    assert drawing.strokes == (far,) and drawing.strokes[0] is far
    pull(drawing, (100, 300), (110, 305), width=None)
    drawing.undo()
    assert len(drawing.strokes) == 2, "nothing was erased, so that was no state"
    pull(drawing, (0, 10), (128, 10), width=None)
    pull(drawing, (5, 200), width=None)
    assert drawing.strokes == ()
    pull(drawing, (5, 200), width=None)


def test_the_eraser_is_quick_and_adds_no_points_beyond_the_limit():
    zigzag = tuple((float(i % 2 * 128), i % 3840 / 10) for i in range(MAX_POINTS))
    for strokes in ((Stroke(zigzag),), tuple(Stroke((point,)) for point in zigzag)):
        drawing = Drawing(SIZE, strokes)
        began = time.process_time()
        pull(drawing, *((i * 7 % 128, i * 11 % 384) for i in range(MAX_POINTS + 9)), width=None)
        pull(drawing, (64, 0), (64, 384), width=None)
        assert time.process_time() - began < 10  # two seconds alone
        assert sum(map(len, lines(drawing))) <= MAX_POINTS


# Undo and redo.


def test_undo_and_redo_go_through_the_states():
    drawing = drawn((1, 1), (50, 50))
    first = drawing.strokes
    drawing.pen_down(60, 60)
    drawing.undo()
    assert drawing.strokes == first
    assert not drawing.pen_move(80, 80), "the pen is up after undo"
    drawing.redo()
    assert lines(drawing)[1:] == [((60, 60),)]
    drawing.replace(())
    assert drawing.strokes == () and drawing.can_undo
    drawing.undo()
    assert len(drawing.strokes) == 2 and drawing.can_redo
    pull(drawing, (9, 9))
    assert not drawing.can_redo, "what was undone is gone once something else is drawn"
    for _ in range(9):
        drawing.undo()
    assert drawing.strokes == () and not drawing.can_undo


def test_the_states_are_limited_in_number_and_points():
    drawing = Drawing(SIZE)
    for i in range(MAX_STATES + 50):
        pull(drawing, (i % 128, 5))
    assert undone(drawing) == MAX_STATES - 1
    large = Drawing(SIZE, drawn(*((i * 7 % 120, i * 11 % 380) for i in range(MAX_POINTS - 99))).strokes)
    for i in range(50):
        pull(large, (i, 5))
    assert 5 <= undone(large) <= 10


def undone(drawing: Drawing) -> int:
    """Undo all; return how often that went."""
    count = 0
    while drawing.can_undo:
        drawing.undo()
        count += 1
    return count


_coordinates = st.integers(-20, 400)
_deeds = st.one_of(
    st.tuples(
        st.just("pull"),
        st.lists(st.tuples(_coordinates, _coordinates), min_size=1, max_size=6),
        st.sampled_from([*PEN_WIDTHS, None]),
    ),
    st.sampled_from([("undo",), ("redo",), ("clear",)]),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(_deeds, max_size=25))
def test_undo_then_redo_changes_nothing(deeds):
    drawing, past, future = Drawing(SIZE), [()], []
    for name, *given_ in deeds:
        if name == "pull":
            pull(drawing, *given_[0], width=given_[1])
        elif name == "clear":
            drawing.replace(())
        elif name == "undo" and len(past) > 1:
            future.append(past.pop())
            drawing.undo()
        elif name == "redo" and future:
            past.append(future.pop())
            drawing.redo()
        if name in ("pull", "clear") and drawing.strokes != past[-1]:
            past, future = [*past, drawing.strokes], []
        assert drawing.strokes == past[-1]
        assert (drawing.can_undo, drawing.can_redo) == (len(past) > 1, bool(future))
        if drawing.can_undo:
            drawing.undo()
            assert drawing.strokes == past[-2]
            drawing.redo()
            assert drawing.strokes == past[-1]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.tuples(_coordinates, _coordinates), min_size=1, max_size=6), max_size=5), st.data())
def test_the_eraser_takes_what_it_passed_and_nothing_else(strokes, data):
    drawing = Drawing(SIZE)
    for points in strokes:
        pull(drawing, *points)
    before = ink(drawing)
    path = data.draw(st.lists(st.tuples(_coordinates, _coordinates), min_size=1, max_size=4))
    pull(drawing, *path, width=None)
    after, trail = ink(drawing), {}
    for width in (ERASER_WIDTH - 4 * PEN_WIDTH, ERASER_WIDTH + 4 * PEN_WIDTH):
        eraser = Drawing(SIZE)
        pull(eraser, *path, width=width)
        trail[width] = ink(eraser)
    inner, outer = trail.values()
    assert not after[inner].any()
    # A line that is cut has its rounded edges elsewhere by a pixel or two.
    for one, other in ((before, after), (after, before)):
        assert not (one & ~outer & ~ndimage.binary_dilation(other, iterations=2)).any()
