"""Pictures of a synthetic person: the photo of a random camera, a sketch, a colour-pencil drawing, infrared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from ms_unireid.apps.sketch.pictures import put_on_white, resize
from ms_unireid.apps.sketch.recipe import STYLES
from ms_unireid.apps.synthetic.figure import Figure, Part, Pose, draw_pose
from ms_unireid.apps.synthetic.person import Person, Rgb, draw_pencil_colours

SKETCH_STYLES = ("pencil", "lines")  # the others need a user's network or program
SIZE = (64, 192)  # width, height in pixels of photos and sketches
_SUPERSAMPLING = 2
_CANVAS = (SIZE[0] * _SUPERSAMPLING, SIZE[1] * _SUPERSAMPLING)
_BODY_HEIGHT = {"short": 0.78, "medium": 0.85, "tall": 0.92}  # share of the picture's height
_BACKDROPS: tuple[Rgb, ...] = (
    *((196, 190, 178), (150, 152, 156), (112, 120, 110), (206, 208, 212), (128, 108, 90), (90, 96, 108)),
    *((168, 184, 160), (186, 168, 150), (146, 166, 184), (74, 78, 74), (216, 204, 184), (160, 132, 124)),
)


@dataclass(frozen=True)
class View:
    """Pose, size and place of a person in a picture."""

    pose: Pose
    unit: float  # canvas pixels per body unit
    origin: tuple[float, float]  # canvas position of the crown

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Map (N, 2) body units to canvas pixels."""
        return points * self.unit + self.origin


def draw_view(rng: np.random.Generator, person: Person) -> View:
    """Draw pose, size and place at random; the soles stay near the lower edge."""
    unit = _CANVAS[1] * _BODY_HEIGHT[person.height] * rng.uniform(0.985, 1.015)
    ground = _CANVAS[1] * rng.uniform(0.963, 0.978)
    x = _CANVAS[0] * (0.5 + rng.uniform(-0.02, 0.02))
    return View(draw_pose(rng), float(unit), (float(x), float(ground - unit)))


def _pattern_mask(pattern: str, view: View, box: tuple[int, int, int, int]) -> np.ndarray:
    """Return where a pixel box (left, top, right, bottom) shows the accent colour: bool (H, W)."""
    left, top, right, bottom = box
    x = ((np.arange(left, right) - view.origin[0]) / view.unit)[None, :] + 10.0
    y = ((np.arange(top, bottom) - view.origin[1]) / view.unit)[:, None] + 10.0
    x = x - view.pose.lean * (11.0 - y)
    if pattern == "dots":
        return np.hypot((x + 0.0315) % 0.063 - 0.0315, y % 0.063 - 0.0315) < 0.021
    if pattern == "checks":
        return (x % 0.066 < 0.022) | (y % 0.066 < 0.022)
    if pattern == "diagonal stripes":
        return (x + y) % 0.085 < 0.038
    if pattern == "vertical stripes":
        return (x + 0.0125) % 0.055 < 0.025
    period = {"broad stripes": 0.11, "narrow stripes": 0.05}[pattern]
    return np.broadcast_to(y % period < period * 0.48, (bottom - top, right - left))


def _hatching(box: tuple[int, int, int, int]) -> np.ndarray:
    """Return where a pixel box shows slanting pencil strokes: bool (H, W)."""
    left, top, right, bottom = box
    return (np.arange(left, right)[None, :] + 0.4 * np.arange(top, bottom)[:, None]) % 5 < 2


def _fill(canvas: Image.Image, points: np.ndarray, ink, shows: Callable[[tuple], np.ndarray]) -> None:
    """Ink the pixels inside an outline for which ``shows`` (pixel box -> bool (H, W)) is true."""
    low = np.maximum(points.min(0).astype(int), 0)
    high = np.minimum(points.max(0).astype(int) + 2, _CANVAS)
    if (high <= low).any():
        return
    inside = Image.new("L", tuple((high - low).tolist()))
    ImageDraw.Draw(inside).polygon((points - low).ravel().tolist(), fill=255)
    box = (*low.tolist(), *high.tolist())
    canvas.paste(ink, box, Image.fromarray(np.asarray(inside) * shows(box)))


def _paint_figure(parts: list[Part], view: View) -> tuple[np.ndarray, np.ndarray]:
    """Paint the person in colour, at final size: float32 (H, W, 3), 0-255, and coverage (H, W, 1), 0-1."""
    figure, cover = Image.new("RGB", _CANVAS), Image.new("L", _CANVAS)
    colour, mask = ImageDraw.Draw(figure), ImageDraw.Draw(cover)
    for part in parts:
        points = view.pixels(part.points)
        outline = points.ravel().tolist()
        if part.width:
            width = max(2, round(part.width * view.unit))
            colour.line(outline, part.colour, width)
            mask.line(outline, 255, width)
            continue
        colour.polygon(outline, part.colour)
        mask.polygon(outline, 255)
        if part.pattern != "plain":
            _fill(figure, points, part.accent, partial(_pattern_mask, part.pattern, view))
        if part.outlined:
            colour.line(outline + outline[:2], tuple(int(0.55 * c) for c in part.colour), 2)
    small = np.asarray(figure.reduce(_SUPERSAMPLING), np.float32)
    coverage = np.asarray(cover.reduce(_SUPERSAMPLING), np.float32)[..., None] / 255
    return small, coverage


def _paint_background(rng: np.random.Generator) -> np.ndarray:
    """Paint a wall, a pavement and some clutter: float32 (H, W, 3), 0-255."""
    (width, height), horizon = SIZE, int(SIZE[1] * rng.uniform(0.45, 0.85))
    wall, ground, other = (np.array(_BACKDROPS[i]) for i in rng.choice(len(_BACKDROPS), 3, replace=False))
    picture = Image.new("RGB", SIZE, tuple(wall.tolist()))
    draw = ImageDraw.Draw(picture)
    kind = rng.integers(4)
    if kind == 0:  # bricks or tiles
        step = int(rng.integers(10, 24))
        for k, y in enumerate(range(0, horizon, step)):
            draw.line([(0, y), (width, y)], tuple((wall * 0.8).astype(int).tolist()))
            for x in range((k % 2) * step, width, 2 * step):
                draw.line([(x, y), (x, y + step)], tuple((wall * 0.8).astype(int).tolist()))
    elif kind < 3:  # doors, posters, people behind
        for _ in range(int(rng.integers(1, 5))):
            x, y = rng.integers(-10, width), rng.integers(-20, horizon)
            shade = tuple((other * rng.uniform(0.7, 1.1)).clip(0, 255).astype(int).tolist())
            draw.rectangle([x, y, x + rng.integers(8, 40), y + rng.integers(15, 110)], shade)
    draw.rectangle([0, horizon, width, height], tuple(ground.tolist()))
    slope = rng.uniform(-12, 12)
    for y in range(horizon + 6, height, int(rng.integers(9, 20))):
        draw.line([(0, y), (width, y + slope)], tuple((ground * 0.85).astype(int).tolist()))
    fade = np.linspace(rng.uniform(0.8, 1.2), rng.uniform(0.8, 1.2), width, dtype=np.float32)[None, :, None]
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.5))), np.float32) * fade


def _expose(rng: np.random.Generator, scene: np.ndarray) -> Image.Image:
    """Apply tint, brightness, contrast, blur and noise of a random camera."""
    gain = (rng.uniform(0.92, 1.08, 3) * rng.uniform(0.8, 1.15)).astype(np.float32)
    scene = (scene - 128) * rng.uniform(0.8, 1.12) + 128
    picture = Image.fromarray((scene * gain).clip(0, 255).astype(np.uint8))
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.0, 0.7)))
    noise = rng.standard_normal((SIZE[1], SIZE[0], 1), np.float32) * np.float32(rng.uniform(1.0, 5.0))
    return Image.fromarray((np.asarray(picture, np.float32) + noise).clip(0, 255).astype(np.uint8))


def draw_photo(rng: np.random.Generator, parts: list[Part], view: View) -> Image.Image:
    """Take a photo of a figure: mode RGB, ``SIZE``."""
    figure, coverage = _paint_figure(parts, view)
    side = rng.uniform(-0.22, 0.22)
    light = 1 + side * np.linspace(-1, 1, SIZE[0], dtype=np.float32)[None, :, None]
    background = _paint_background(rng)
    return _expose(rng, figure * light * coverage + background * (1 - coverage))


def _wander(strength: np.ndarray, count: int) -> np.ndarray:
    """Return the unsteadiness of a hand along a line of ``count`` points: (count, 2) canvas pixels.

    ``strength``, (3, 2), is the size of a shift, of one wave and of two waves along the line.
    """
    turns = np.arange(count)[:, None] * (2 * np.pi / max(count - 1, 1))
    shift, once, twice = strength
    return shift + np.sin(turns + 6.0 * once) * once + np.cos(2 * turns + 6.0 * twice) * twice


def _shade(colour: Rgb) -> int:
    """Return the grey of a colour in a sketch, brightened so that outlines stay darker."""
    red, green, blue = colour
    return round(255 - 0.75 * (255 - (0.3 * red + 0.59 * green + 0.11 * blue)))


def draw_sketch(rng: np.random.Generator, parts: list[Part], view: View) -> Image.Image:
    """Draw a shaded pencil sketch of a figure on white: mode L, ``SIZE``."""
    paper = Image.new("L", _CANVAS, 255)
    draw = ImageDraw.Draw(paper)
    pencil, width = int(rng.integers(30, 85)), int(rng.integers(3, 5))
    for part, strength in zip(parts, rng.normal(0, 0.45, (len(parts), 3, 2)), strict=True):
        points = view.pixels(part.points) + _wander(strength, len(part.points))
        outline = points.ravel().tolist()
        if part.width:
            draw.line(outline, pencil, max(3, round(part.width * view.unit * 0.7)))
            continue
        draw.polygon(outline, _shade(part.colour) if part.tone is None else part.tone)
        if part.pattern != "plain":
            _fill(paper, points, _shade(part.accent), partial(_pattern_mask, part.pattern, view))
        if part.hatched:
            _fill(paper, points, pencil + 35, _hatching)
        if part.outlined:
            draw.line(outline + outline[:2], pencil, width)
    small = np.asarray(paper.reduce(_SUPERSAMPLING), np.float32)
    grain = rng.standard_normal(small.shape, np.float32) * 14 * (small < 235)  # pencil on rough paper
    return Image.fromarray((small + grain).clip(0, 255).astype(np.uint8))


def draw_from_photo(
    rng: np.random.Generator, photo: Image.Image, parts: list[Part], view: View, style: str
) -> Image.Image:
    """Draw the sketch of a photo in one of ``SKETCH_STYLES``, with the figure's true mask: mode L, ``SIZE``."""
    width, height = _CANVAS
    mask = resize(_paint_figure(parts, view)[1][..., 0], (height, width)).clip(0, 1)
    cut = put_on_white(resize(np.asarray(photo), (height, width)), mask)
    return Image.fromarray(STYLES[style].load()(cut, mask, rng)).reduce(_SUPERSAMPLING)


def _strokes(rng: np.random.Generator) -> np.ndarray:
    """Return how much colour the slanting strokes of a pencil leave on paper: float32 canvas (H, W, 1), 0-1."""
    x, y = np.arange(_CANVAS[0], dtype=np.float32)[None, :], np.arange(_CANVAS[1], dtype=np.float32)[:, None]
    slant, period, bend = rng.choice((-1, 1)) * rng.uniform(0.4, 1.1), rng.uniform(5, 7), rng.uniform(1, 2.5)
    wave = np.sin((x + slant * y + bend * np.sin(y / rng.uniform(14, 26) + x / 40)) * np.float32(2 * np.pi / period))
    grain = rng.standard_normal((_CANVAS[1], _CANVAS[0]), np.float32) * np.float32(0.16)
    return (np.float32(rng.uniform(0.72, 0.84)) + np.float32(0.3) * wave + grain).clip(0, 1)[..., None]


def draw_colour_pencil(rng: np.random.Generator, person: Person) -> Image.Image:
    """Draw a person in a pose of its own with an artist's colour pencils on white: mode RGB, ``SIZE``."""
    view = draw_view(rng, person)
    parts = Figure(person, view.pose, draw_pencil_colours(rng, person)).parts()
    drawing, pressure = Image.new("RGB", _CANVAS), Image.new("L", _CANVAS)
    colour, press = ImageDraw.Draw(drawing), ImageDraw.Draw(pressure)
    dark, width = (int(rng.integers(40, 95)),) * 3, int(rng.integers(2, 5))
    wander = rng.normal(0, 0.7, (len(parts), 3, 2))
    for part, strength, hand in zip(parts, wander, rng.integers(190, 244, len(parts)).tolist(), strict=True):
        points = view.pixels(part.points) + _wander(strength, len(part.points))
        outline = points.ravel().tolist()
        if part.width:
            line_width = max(3, round(part.width * view.unit * 0.8))
            colour.line(outline, part.colour, line_width)
            press.line(outline, 250, line_width)
            continue
        colour.polygon(outline, part.colour)
        press.polygon(outline, hand)
        if part.pattern != "plain":
            _fill(drawing, points, part.accent, partial(_pattern_mask, part.pattern, view))
        if part.outlined:
            colour.line(outline + outline[:2], dark, width)
            press.line(outline + outline[:2], 255, width)
    left = np.asarray(pressure, np.float32)[..., None] / 255
    ink = (left * np.maximum(_strokes(rng), left > 0.96)) * (255 - np.asarray(drawing, np.float32))
    return Image.fromarray((255 - ink).astype(np.uint8)).reduce(_SUPERSAMPLING)


def draw_infrared(rng: np.random.Generator, person: Person, greys: dict[str, Rgb]) -> Image.Image:
    """Film a person at another moment with a near-infrared camera and its lamp: mode L, ``SIZE``.

    ``greys`` are what near infrared shows instead of the person's colours (`draw_infrared_greys`).
    """
    view = draw_view(rng, person)
    figure, coverage = _paint_figure(Figure(person, view.pose, greys).parts(), view)
    wall = _paint_background(rng) * rng.uniform(0.2, 0.5)  # the lamp reaches the person and less of what is behind
    scene = (figure * coverage + wall * (1 - coverage)).mean(-1)
    width, height = SIZE
    x, y = np.linspace(-1, 1, width)[None, :], np.linspace(-1, 1, height)[:, None]
    away = (x - rng.uniform(-0.3, 0.3)) ** 2 + (y - rng.uniform(-0.4, 0.2)) ** 2
    scene = scene * (rng.uniform(1.0, 1.2) - rng.uniform(0.15, 0.32) * away) + rng.uniform(4, 14)
    lens = ImageFilter.GaussianBlur(rng.uniform(0.3, 0.8))
    picture = Image.fromarray(scene.clip(0, 255).astype(np.uint8)).filter(lens)
    noise = rng.standard_normal((height, width), np.float32) * np.float32(rng.uniform(3.0, 7.0))
    return Image.fromarray((np.asarray(picture, np.float32) + noise).clip(0, 255).astype(np.uint8))
