"""Drawings: strokes of points, shown as SVG and rendered as black lines on white.

The browser sends points, not pixels, so the limit of points also limits the size.
"""

import math

from PIL import Image, ImageDraw

HEIGHT = 384.0  # of the sheet in its own units; its aspect ratio is that of the model's input
PEN_WIDTH = 3.0  # width of a line in the same units
MAX_POINTS = 20_000
_SCALE = 2  # rendered pixels per unit; the resizing to the model's input smooths the lines

Point = tuple[float, float]  # x to the right, y down
Stroke = tuple[Point, ...]


class Drawing:
    """A sheet with strokes.

    Args:
        image_size: Height and width of the model's input; the sheet has its aspect ratio.
        strokes: Initial strokes.

    Attributes:
        size: Width and height of the sheet in its units.
    """

    def __init__(self, image_size: tuple[int, int], strokes: tuple[Stroke, ...] = ()):
        height, width = image_size
        self.size = (round(HEIGHT * width / height, 1), HEIGHT)
        self._strokes = [list(stroke) for stroke in strokes]
        self._points = sum(map(len, strokes))
        self._pen_is_down = False

    @property
    def strokes(self) -> tuple[Stroke, ...]:
        """All strokes, with the one that is being drawn."""
        return tuple(tuple(stroke) for stroke in self._strokes)

    @property
    def latest(self) -> tuple[Stroke, ...]:
        """The latest stroke; empty if there is none."""
        return tuple(tuple(stroke) for stroke in self._strokes[-1:])

    def pen_down(self, x: object, y: object) -> None:
        """Begin a stroke; invalid coordinates are ignored."""
        point = self._point(x, y)
        if point is not None:
            self._strokes.append([point])
            self._points += 1
            self._pen_is_down = True

    def pen_move(self, x: object, y: object) -> bool:
        """Move the pen; return whether that added a point."""
        point = self._point(x, y)
        if not self._pen_is_down or point is None or math.dist(point, self._strokes[-1][-1]) < 1:
            return False
        self._strokes[-1].append(point)
        self._points += 1
        return True

    def pen_up(self) -> bool:
        """End the stroke; return whether there was one."""
        was_down, self._pen_is_down = self._pen_is_down, False
        return was_down

    def undo(self) -> None:
        """Remove the latest stroke."""
        self.pen_up()
        if self._strokes:
            self._points -= len(self._strokes.pop())

    def render(self) -> Image.Image:
        """Render black lines on white; mode RGB, two pixels per unit."""
        width, height = self.size
        picture = Image.new("RGB", (round(width * _SCALE), round(height * _SCALE)), "white")
        pen = ImageDraw.Draw(picture)
        for stroke in self._strokes:
            _render_stroke(pen, [(x * _SCALE, y * _SCALE) for x, y in stroke])
        return picture

    def _point(self, x: object, y: object) -> Point | None:
        """Check coordinates from the browser and move them onto the sheet; None if they are invalid."""
        if self._points >= MAX_POINTS:
            return None
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in (x, y)):
            return None
        return tuple(round(min(max(value, 0), limit), 1) for value, limit in zip((x, y), self.size, strict=True))


def to_svg(strokes: tuple[Stroke, ...]) -> str:
    """Convert strokes to SVG elements in the units of the sheet."""
    return "".join(_stroke_to_svg(stroke) for stroke in strokes)


def _stroke_to_svg(stroke: Stroke) -> str:
    points = stroke if len(stroke) > 1 else stroke * 2  # a line of length 0 shows its round ends: a dot
    coordinates = " ".join(f"{x:g},{y:g}" for x, y in points)
    return (
        f'<polyline points="{coordinates}" fill="none" stroke="black" stroke-width="{PEN_WIDTH:g}" '
        'stroke-linecap="round" stroke-linejoin="round"/>'
    )


def _render_stroke(pen: ImageDraw.ImageDraw, points: list[Point]) -> None:
    radius = PEN_WIDTH * _SCALE / 2
    if len(points) > 1:
        pen.line(points, fill="black", width=round(2 * radius))
    for x, y in points:  # round ends and joints
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill="black")
