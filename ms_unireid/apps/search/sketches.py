"""Sketches of queries, brought to what models are trained with: dark lines on white that fill an upright sheet."""

import math
from typing import NamedTuple

import numpy as np
import scipy  # loads scipy.ndimage at its first use
from PIL import Image, ImageOps

from ms_unireid.errors import QueryError

_LOOK = 512  # pixels of the longer side in which lines are looked for
_KEPT = 1024  # at most, of a sketch that is changed
_PIECES = 16  # of each edge, whose medians are the colours of the ground
_FAINTEST = 0.03  # contrast of a line, which has twice that somewhere; more on noisy paper
_SPECK, _SHORTEST = 0.01, 0.03  # of the longer side: what is no noise, and a line that is no dot
_WHITE, _SHADED, _TINT, _DARK = 230, 170, 12, 140  # levels of the ground
_COLOURED = 50  # levels between the channels of a coloured line
_FRAME = 0.12  # of its sides: how near to them a frame's pixels are
_EDGE = 0.05  # of the shorter side: as far in, bars and shadows of a scan are no lines
_TINY = 16  # pixels of the shorter side, in which no line can be told
_HEIGHT, _BELOW = 0.88, 0.026  # of a new sheet: the drawing, and the margin below it, as in the demo's sketches

Box = tuple[float, float, float, float]  # left, top, right and bottom as fractions of the sheet


class _Look(NamedTuple):
    """A sketch at a small size, inverted if its lines are light."""

    pixels: np.ndarray  # (H, W, 3) float32
    ground: np.ndarray  # the same of the sheet without lines
    contrast: np.ndarray  # (H, W); 1: black on white
    faintest: float  # contrast of a line
    is_light: bool


def prepare_sketch(picture: Image.Image, image_size: tuple[int, int]) -> tuple[Image.Image, list[str]]:
    """Make light, coloured or shaded drawings dark on white, and enlarge small ones in their own proportions.

    Args:
        picture: Mode RGB.
        image_size: Height and width of the model's input.

    Returns:
        The sketch, mode RGB, and what was done. A sketch like those of training is returned itself, without notes.

    Raises:
        QueryError: If nothing is drawn.
    """
    look, notes = _look(picture), []
    if min(picture.size) < _TINY and np.ptp(look.pixels) > 255 * _FAINTEST:
        return picture, notes
    box = _box_of_lines(look.contrast, max(look.faintest, look.contrast.max() / 10))
    if box is None:
        raise QueryError("nothing is drawn, or only dots; draw a person, search it as it is, or leave the sketch out")
    if look.is_light and _is_page(look, box):
        picture, notes = prepare_sketch(_cut_out(picture, box, inset=_EDGE), image_size)
        return picture, ["the sheet was cut out of what lies around it", *notes]
    is_white = _is_white(look.ground)
    if _has_many_colours(look) or (not is_white and _ground_share(look) < 0.2):
        return picture, ["looks like a photo, and was searched as it is"]
    ground = Image.fromarray(look.ground.astype(np.uint8))
    if look.is_light:
        picture = ImageOps.invert(picture)
        notes.append("light lines on a dark ground were inverted")
    is_small = not _fills_sheet(box, picture.height / picture.width)
    if is_small:
        picture, ground = _cut_out(picture, box), _cut_out(ground, box)
    if not is_white or _is_coloured(look):
        picture = _whiten(picture, ground)
        notes.append("a coloured or shaded drawing was made grey on white")
    if is_small:
        picture = _on_sheet(picture, max(image_size[0] / image_size[1], 2))
        notes.append("a small drawing was enlarged to fill an upright sheet, in its own proportions")
    return picture, notes


def _look(picture: Image.Image) -> _Look:
    """Look for dark lines and, if the edge is dark, for light ones; return the look with the evener ground."""
    pixels = scipy.ndimage.gaussian_filter(np.asarray(_at_most(picture, _LOOK), np.float32), (0.7, 0.7, 0))
    looks = [_look_at(pixels, False)]
    if looks[0].ground.mean() < _DARK:
        looks.append(_look_at(255 - pixels, True))
    return max(looks, key=_ground_share)


def _look_at(pixels: np.ndarray, is_light: bool) -> _Look:
    ground = _ground(pixels)
    contrast = (ground - pixels).mean(axis=2) / 255
    return _Look(pixels, ground, contrast, max(_FAINTEST, 5 * _noise(contrast)), is_light)


def _ground(pixels: np.ndarray) -> np.ndarray:
    """Interpolate the colours along the edges inwards (a Coons patch): a gradual shadow belongs to the ground."""
    height, width, _ = pixels.shape
    depth = _depth(pixels)
    turned = pixels.swapaxes(0, 1)
    top, bottom, left, right = (_edge(strip) for side in (pixels, turned) for strip in (side[:depth], side[-depth:]))
    x, y = np.linspace(0, 1, width)[:, None], np.linspace(0, 1, height)[:, None, None]
    upper = ((1 - x) * (top[0] + left[0]) + x * (top[-1] + right[0])) / 2
    lower = ((1 - x) * (bottom[0] + left[-1]) + x * (bottom[-1] + right[-1])) / 2
    across = (1 - x) * left[:, None] + x * right[:, None]
    return np.clip(across + (1 - y) * (top - upper) + y * (bottom - lower), 1, 255)


def _depth(pixels: np.ndarray) -> int:
    return max(2, round(_EDGE * min(pixels.shape[:2])))


def _edge(strip: np.ndarray) -> np.ndarray:
    """Return the colour along a strip (depth, L, 3), (L, 3), without the lines that cross it."""
    length = strip.shape[1]
    pieces = np.array_split(np.arange(length), min(_PIECES, length))
    medians = [np.percentile(strip[:, piece], 90, axis=(0, 1)) for piece in pieces]
    smooth = scipy.ndimage.median_filter(medians, (5, 1), mode="nearest")
    centres = [piece.mean() for piece in pieces]
    return np.stack([np.interp(np.arange(length), centres, channel) for channel in smooth.T], axis=1)


def _noise(contrast: np.ndarray, tile: int = 8) -> float:
    """Return the standard deviation within the evenest tenth of the tiles."""
    height, width = (size // tile for size in contrast.shape)
    tiles = contrast[: height * tile, : width * tile].reshape(height, tile, width, tile)
    return float(np.percentile(tiles.std(axis=(1, 3)), 10)) if tiles.size else 0.0


def _ground_share(look: _Look) -> float:
    """Return how much of the sheet and its edge is ground, less what is lighter than the ground."""
    contrast, depth = 255 * look.contrast / look.ground.mean(axis=2), _depth(look.ground)
    even = np.abs(contrast) < max(0.1, look.faintest)
    edge = np.ones_like(even)
    edge[depth:-depth, depth:-depth] = False
    return even.mean() * even[edge].mean() - np.mean(contrast < -max(0.1, look.faintest))


def _is_white(ground: np.ndarray) -> bool:
    middle = np.median(ground, axis=(0, 1))
    return bool(middle.min() > _WHITE and np.ptp(middle) < _TINT and np.percentile(ground, 25) > _SHADED)


def _is_page(look: _Look, box: Box) -> bool:
    """Whether what is light on a dark ground is a sheet of paper, which is light throughout."""
    return bool((np.asarray(_cut_out(Image.fromarray(look.contrast), box)) > look.contrast.max() / 2).mean() > 0.7)


def _is_coloured(look: _Look) -> bool:
    return bool(np.median(np.ptp(look.pixels[look.contrast > look.contrast.max() / 2], axis=1)) > _COLOURED)


def _has_many_colours(look: _Look) -> bool:
    """Whether colours differ by more than how dark they are; those of one pen do not, on paper of any colour."""
    drawn = ((look.ground - look.pixels) / look.ground)[look.contrast > look.faintest]
    pen = np.linalg.svd(drawn, full_matrices=False)[2][0]
    others = np.linalg.norm(drawn - np.outer(drawn @ pen, pen), axis=1) > 0.15
    return bool(others.sum() > 0.13 * look.contrast.size)


def _box_of_lines(contrast: np.ndarray, faintest: float) -> Box | None:
    """Return the box around the lines, without dots and frames; None if there is no line."""
    mask = contrast > faintest
    labels, _ = scipy.ndimage.label(scipy.ndimage.binary_dilation(mask, iterations=2))
    edge = math.ceil(_EDGE * min(mask.shape)) if min(mask.shape) > 2 else 0
    inside = np.unique((labels * mask)[edge : mask.shape[0] - edge, edge : mask.shape[1] - edge])
    places = scipy.ndimage.find_objects(labels)
    parts = {n: mask[places[n - 1]] & (labels[places[n - 1]] == n) for n in inside[inside > 0]}
    lengths = {n: (max(part.shape) - 4) / max(mask.shape) for n, part in parts.items() if not _is_frame(part, mask)}
    lines = np.isin(labels, [n for n, length in lengths.items() if length >= _SPECK]) & mask
    if max(lengths.values(), default=0) < _SHORTEST or contrast[lines].max() < 2 * faintest:
        return None
    rows, columns = (np.flatnonzero(lines.any(axis=axis)) for axis in (1, 0))
    height, width = mask.shape
    return columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height


def _is_frame(part: np.ndarray, sheet: np.ndarray) -> bool:
    """Whether a connected part of the lines goes around the sheet."""
    height, width = part.shape
    y, x = round(_FRAME * height), round(_FRAME * width)
    is_large = height > 0.6 * sheet.shape[0] and width > 0.6 * sheet.shape[1]
    return bool(is_large and part[y : height - y, x : width - x].sum() < 0.15 * part.sum())


def _fills_sheet(box: Box, tall: float) -> bool:
    """Whether a drawing fills a sheet of this height / width as a person fills a photo."""
    width, height = box[2] - box[0], box[3] - box[1]
    return 1.5 <= tall <= 5 and (max(width, height) if tall >= 2 else min(width, height)) >= 0.6


def _cut_out(picture: Image.Image, box: Box, inset: float = 0) -> Image.Image:
    left, top, right, bottom = (side * size for side, size in zip(box, 2 * picture.size, strict=True))
    x, y = inset * (right - left), inset * (bottom - top)
    return picture.crop((math.floor(left + x), math.floor(top + y), math.ceil(right - x), math.ceil(bottom - y)))


def _whiten(picture: Image.Image, ground: Image.Image) -> Image.Image:
    """Divide by the ground, keep the darkest channel, and stretch it from the darkest lines to the ground."""
    picture = _at_most(picture, _KEPT)
    shade = np.asarray(picture, np.float32) / np.maximum(np.asarray(ground.resize(picture.size), np.float32), 1)
    grey = shade.min(axis=2).clip(0, 1)
    black, white = min(np.percentile(grey, 1), 0.6), np.median(grey[grey > 0.8])
    return Image.fromarray((255 * (grey - black) / (white - black)).clip(0, 255).astype(np.uint8)).convert("RGB")


def _on_sheet(picture: Image.Image, tall: float) -> Image.Image:
    """Put a drawing on a white sheet of this height / width, its ink centred, near the lower edge."""
    height = round(max(picture.height / _HEIGHT, picture.width * tall))
    sheet = Image.new("RGB", (max(picture.width, round(height / tall)), height), "white")
    ink = 255 - np.asarray(picture.convert("L"), float)
    centre = np.average(np.arange(picture.width), weights=ink.sum(axis=0) + 1e-9)
    left = min(max(round(sheet.width / 2 - centre), 0), sheet.width - picture.width)
    is_tall = picture.height > height * _HEIGHT / 2
    below = round(_BELOW * height) if is_tall else (height - picture.height) // 2
    sheet.paste(picture, (left, max(0, height - picture.height - below)))
    return sheet


def _at_most(picture: Image.Image, side: int) -> Image.Image:
    return ImageOps.contain(picture, (side, side)) if max(picture.size) > side else picture
