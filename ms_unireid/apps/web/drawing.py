"""Drawings: strokes of points, shown as SVG and rendered as black lines on white.

The browser sends points, not pixels, so the limit of points also limits the size.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy.spatial import KDTree

HEIGHT = 384.0  # of the sheet in its own units; its aspect ratio is that of the model's input
PEN_WIDTHS = (1.5, 3.0, 6.0)  # of lines in the same units
PEN_WIDTH = PEN_WIDTHS[1]
ERASER_WIDTH = 14.0
MAX_POINTS = 20_000
MAX_STATES = 100  # for undo and redo
_MAX_KEPT = 10 * MAX_POINTS  # points in these states
_SCALE = 2  # rendered pixels per unit; the resizing to the model's input smooths the lines
_STEP, _MAX_STEPS = 1.0, 300_000  # units between the places where a line is looked at to erase it, and their number

Point = tuple[float, float]  # x to the right, y down


@dataclass(frozen=True)
class Stroke:
    """A line of the pen; one point is a dot."""

    points: tuple[Point, ...]
    width: float = PEN_WIDTH  # in units of the sheet


class Drawing:
    """A sheet with strokes, each state of which can be had again by undo and redo.

    Args:
        image_size: Height and width of the model's input; the sheet has its aspect ratio.
        strokes: Initial strokes.

    Attributes:
        size: Width and height of the sheet in its units.
    """

    def __init__(self, image_size: tuple[int, int], strokes: tuple[Stroke, ...] = ()):
        height, width = image_size
        self.size = (round(HEIGHT * width / height, 1), HEIGHT)
        self._states, self._now = [strokes], 0
        self._path: list[Point] = []  # of the pen or eraser that is down
        self._width: float | None = None  # of the pen; None: it is the eraser

    @property
    def strokes(self) -> tuple[Stroke, ...]:
        """All strokes, without the one that is being drawn."""
        return self._states[self._now]

    @property
    def can_undo(self) -> bool:
        """Whether there is an earlier state."""
        return self._now > 0

    @property
    def can_redo(self) -> bool:
        """Whether there is an undone state."""
        return self._now < len(self._states) - 1

    def pen_down(self, x: object, y: object, width: float | None = PEN_WIDTH) -> None:
        """Begin a stroke, or to erase if the width is None; invalid coordinates are ignored."""
        self.pen_up()
        self._width = width
        point = self._point(x, y)
        if point is not None:
            self._path.append(point)

    def pen_move(self, x: object, y: object) -> bool:
        """Move the pen or eraser; return whether that added a point."""
        point = self._point(x, y)
        if not self._path or point is None or math.dist(point, self._path[-1]) < 1:
            return False
        self._path.append(point)
        return True

    def pen_up(self) -> bool:
        """End the stroke, or erase what the eraser passed; return whether one of them was down."""
        path, self._path = tuple(self._path), []
        if path and self._width is None:
            self.replace(_erased(self.strokes, path))
        elif path:
            self.replace((*self.strokes, Stroke(path, self._width)))
        return bool(path)

    def replace(self, strokes: tuple[Stroke, ...]) -> None:
        """Put other strokes on the sheet, none to clear it; that can be undone."""
        self.pen_up()
        if strokes != self.strokes:
            self._states[self._now + 1 :] = [strokes]
            while len(self._states) > MAX_STATES or sum(map(_count, self._states)) > _MAX_KEPT:
                self._states.pop(0)
            self._now = len(self._states) - 1

    def undo(self) -> None:
        """Go back to the state before, if there is one."""
        self.pen_up()
        self._now -= self.can_undo

    def redo(self) -> None:
        """Go back to the state that was undone, if there is one."""
        self.pen_up()
        self._now += self.can_redo

    def render(self) -> Image.Image:
        """Render black lines on white; mode RGB, two pixels per unit."""
        width, height = self.size
        picture = Image.new("RGB", (round(width * _SCALE), round(height * _SCALE)), "white")
        pen = ImageDraw.Draw(picture)
        for stroke in self.strokes:
            _render_stroke(pen, stroke)
        return picture

    def path_svg(self) -> str:
        """Return the path of the pen or eraser that is down as SVG; empty if none is."""
        stroke = Stroke(tuple(self._path), self._width or ERASER_WIDTH)
        return to_svg((stroke,), "white" if self._width is None else "black") if self._path else ""

    def _point(self, x: object, y: object) -> Point | None:
        """Check coordinates from the browser and move them onto the sheet; None if they are invalid."""
        taken = 0 if self._width is None else _count(self.strokes)
        if taken + len(self._path) >= MAX_POINTS:
            return None
        if not (is_number(x) and is_number(y)):
            return None
        return tuple(round(min(max(value, 0), limit), 1) for value, limit in zip((x, y), self.size, strict=True))


def is_number(value: object) -> bool:
    """Whether something that a browser sent is a finite number."""
    return isinstance(value, int | float) and abs(value) < math.inf


def to_svg(strokes: tuple[Stroke, ...], colour: str = "black") -> str:
    """Convert strokes to SVG elements in the units of the sheet."""
    return "".join(_stroke_to_svg(stroke, colour) for stroke in strokes)


def _stroke_to_svg(stroke: Stroke, colour: str) -> str:
    # A line of length 0 shows its round ends: a dot.
    points = stroke.points if len(stroke.points) > 1 else stroke.points * 2
    coordinates = " ".join(f"{x:g},{y:g}" for x, y in points)
    return (
        f'<polyline points="{coordinates}" fill="none" stroke="{colour}" stroke-width="{stroke.width:g}" '
        'stroke-linecap="round" stroke-linejoin="round"/>'
    )


def _render_stroke(pen: ImageDraw.ImageDraw, stroke: Stroke) -> None:
    radius = stroke.width * _SCALE / 2
    points = [(x * _SCALE, y * _SCALE) for x, y in stroke.points]
    if len(points) > 1:
        pen.line(points, fill="black", width=round(2 * radius))
    for x, y in points:  # round ends and joints
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill="black")


def _count(strokes: tuple[Stroke, ...]) -> int:
    return sum(len(stroke.points) for stroke in strokes)


def _erased(strokes: tuple[Stroke, ...], path: tuple[Point, ...]) -> tuple[Stroke, ...]:
    """Remove what lies under the eraser's path; a stroke that is cut in the middle becomes two."""
    if not strokes:
        return strokes
    places, is_point, owner = _places([stroke.points for stroke in strokes])
    distance, _ = KDTree(_places([path])[0]).query(places, distance_upper_bound=ERASER_WIDTH / 2)
    stays = np.isinf(distance)
    ends, left = np.searchsorted(owner, range(len(strokes) + 1)), []
    for stroke, first, last in zip(strokes, ends[:-1], ends[1:], strict=True):
        if stays[first:last].all():
            left.append(stroke)
            continue
        runs = first + np.flatnonzero(np.diff(stays[first:last], prepend=False, append=False)).reshape(-1, 2)
        for begin, end in runs[np.ptp(runs, axis=1) > 1]:  # a single place is a crumb
            chosen = is_point[begin:end].copy()
            chosen[[0, -1]] = True
            points = places[begin:end][chosen].round(1).tolist()
            left.append(Stroke(tuple(map(tuple, points)), stroke.width))
    return tuple(left) if _count(left) <= MAX_POINTS else strokes


def _places(lines: list[tuple[Point, ...]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Divide lines into short steps.

    Returns:
        The places, (N, 2); whether each is a point of a line; and the number of its line.
    """
    points = np.array([point for line in lines for point in line])
    owner = np.repeat(np.arange(len(lines)), [len(line) for line in lines])
    way = np.diff(points, axis=0, append=points[-1:])
    way[:-1][owner[1:] != owner[:-1]] = 0  # from one line to the next
    length = np.hypot(*way.T)
    count = np.ceil(length / max(_STEP, length.sum() / _MAX_STEPS)).astype(int).clip(1)
    step = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    share = (step / np.repeat(count, count))[:, None]
    places = np.repeat(points, count, axis=0) + share * np.repeat(way, count, axis=0)
    return places, step == 0, np.repeat(owner, count)
