"""A drawing as it grows: strokes of points, shown as SVG and rendered as black lines on white paper.

The page sends points, never pixels, so that a drawing cannot be larger than its points.
"""

import math

from PIL import Image, ImageDraw

HEIGHT = 384.0  # of the paper in its own units; its proportions are those of the model's pictures
PEN = 3.0  # width of a line in the same units
MAX_POINTS = 20_000
_SCALE = 2  # rendered pixels to a unit; the model's own resizing then smooths the lines

Point = tuple[float, float]  # x to the right, y down
Stroke = tuple[Point, ...]


class Drawing:
    """Strokes that a pen left on paper.

    Attributes:
        size: Width and height of the paper in its units.
    """

    def __init__(self, image_size: tuple[int, int], strokes: tuple[Stroke, ...] = ()):
        """Put strokes on paper.

        Args:
            image_size: Height and width of the model's pictures in pixels, for the proportions.
            strokes: What is drawn already.
        """
        height, width = image_size
        self.size = (round(HEIGHT * width / height, 1), HEIGHT)
        self._strokes = [list(stroke) for stroke in strokes]
        self._points = sum(map(len, strokes))
        self._pen_is_down = False

    @property
    def strokes(self) -> tuple[Stroke, ...]:
        """Return the finished strokes and the one under the pen."""
        return tuple(tuple(stroke) for stroke in self._strokes)

    @property
    def latest(self) -> tuple[Stroke, ...]:
        """Return the latest stroke alone, or none."""
        return tuple(tuple(stroke) for stroke in self._strokes[-1:])

    def pen_down(self, x: object, y: object) -> None:
        """Begin a stroke; what is not a place on paper is ignored."""
        point = self._place(x, y)
        if point is not None:
            self._strokes.append([point])
            self._points += 1
            self._pen_is_down = True

    def pen_move(self, x: object, y: object) -> bool:
        """Lead the pen to a place; tell whether that added to the drawing."""
        point = self._place(x, y)
        if not self._pen_is_down or point is None or math.dist(point, self._strokes[-1][-1]) < 1:
            return False
        self._strokes[-1].append(point)
        self._points += 1
        return True

    def pen_up(self) -> bool:
        """End the stroke; tell whether there was one."""
        was_down, self._pen_is_down = self._pen_is_down, False
        return was_down

    def undo(self) -> None:
        """Take the latest stroke away."""
        self.pen_up()
        if self._strokes:
            self._points -= len(self._strokes.pop())

    def render(self) -> Image.Image:
        """Render the drawing as black lines on white; mode RGB, two pixels to a unit."""
        width, height = self.size
        picture = Image.new("RGB", (round(width * _SCALE), round(height * _SCALE)), "white")
        pen = ImageDraw.Draw(picture)
        for stroke in self._strokes:
            _render_stroke(pen, [(x * _SCALE, y * _SCALE) for x, y in stroke])
        return picture

    def _place(self, x: object, y: object) -> Point | None:
        """Return the place on paper, the nearest one for a pen beside it; the values come from a browser."""
        if self._points >= MAX_POINTS:
            return None
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in (x, y)):
            return None
        return tuple(round(min(max(value, 0), limit), 1) for value, limit in zip((x, y), self.size, strict=True))


def to_svg(strokes: tuple[Stroke, ...]) -> str:
    """Return strokes as SVG elements in the paper's units."""
    return "".join(_stroke_to_svg(stroke) for stroke in strokes)


def _stroke_to_svg(stroke: Stroke) -> str:
    points = stroke if len(stroke) > 1 else stroke * 2  # a line of no length still shows its round ends: a dot
    places = " ".join(f"{x:g},{y:g}" for x, y in points)
    return (
        f'<polyline points="{places}" fill="none" stroke="black" stroke-width="{PEN:g}" '
        'stroke-linecap="round" stroke-linejoin="round"/>'
    )


def _render_stroke(pen: ImageDraw.ImageDraw, points: list[Point]) -> None:
    radius = PEN * _SCALE / 2
    if len(points) > 1:
        pen.line(points, fill="black", width=round(2 * radius))
    for x, y in points:  # round ends and joints
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill="black")
