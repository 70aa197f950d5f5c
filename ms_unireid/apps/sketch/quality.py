"""Measures of sketches: coverage with ink, stroke width, and ink outside the person."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from ms_unireid.apps.sketch.artist import Artist
from ms_unireid.apps.sketch.pictures import read_sketch, resize
from ms_unireid.apps.sketch.recipe import DEFAULT_SIZE, Recipe

BLANK_BELOW, FULL_ABOVE = 2.0, 40.0  # percent of coverage
_INK_BELOW = 128  # mid-grey: strokes count, the smear around them does not
_WIDTHS_PER_SKETCH = 400  # the same number for each sketch, so that all have the same weight
_TOLERANCE = 2  # pixels around the mask in which an outline may lie


@dataclass(frozen=True)
class SketchMeasures:
    """Measures of one sketch.

    Attributes:
        coverage: Share of inked pixels, percent 0-100.
        widths: Sorted stroke widths in pixels of a drawing 384 high, 400 of them; none without ink.
        outside: Share of the ink that lies outside the person, percent 0-100; None without a mask.
    """

    coverage: float
    widths: np.ndarray
    outside: float | None = None


def measure(sketch: np.ndarray, mask: np.ndarray | None = None) -> SketchMeasures:
    """Measure a sketch, uint8 (H, W), at 384x128; `mask` is the opacity of the person, float32 (h, w), 0-1."""
    ink = resize(sketch, DEFAULT_SIZE) < _INK_BELOW
    outside = None
    if mask is not None:
        person = scipy.ndimage.binary_dilation(resize(mask, DEFAULT_SIZE) > 0.05, iterations=_TOLERANCE)
        outside = 100 * float((ink & ~person).sum() / max(ink.sum(), 1))
    return SketchMeasures(100 * float(ink.mean()), stroke_widths(ink), outside)


def stroke_widths(ink: np.ndarray) -> np.ndarray:
    """Return the sorted widths of strokes in pixels: twice the distance to the paper along their middle lines."""
    distance = scipy.ndimage.distance_transform_edt(np.pad(ink, 1))[1:-1, 1:-1]
    middle = ink & (distance == scipy.ndimage.maximum_filter(distance, 3))
    widths = np.sort(2 * distance[middle] - 1)
    if len(widths) == 0:
        return widths
    return widths[np.linspace(0, len(widths) - 1, _WIDTHS_PER_SKETCH).round().astype(int)]


def measure_sketches(
    photos: Path,
    sketches: Mapping[str, Path],
    recipe: Recipe,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, SketchMeasures]:
    """Measure the sketch of each photo; the recipe's background finds the person, unless it is `none`.

    Args:
        photos: Folder of the photos.
        sketches: The file of each photo's sketch, by the photo's relative path.
        recipe: Only its background is used.
        progress: Called with (sketches done, sketches in all).

    Raises:
        DataError: If a sketch or a photo cannot be read.
        UserError: If the background cannot be used.
    """
    artist = Artist(recipe) if recipe.background != "none" else None
    measures = {}
    for done, (photo, sketch) in enumerate(sketches.items(), 1):
        mask = artist.cut_out(photos / photo, photo).mask if artist else None
        measures[photo] = measure(read_sketch(sketch), mask)
        if progress:
            progress(done, len(sketches))
    return measures


def summarize(measures: Mapping[str, SketchMeasures], references: Sequence[SketchMeasures] = ()) -> dict[str, Any]:
    """Summarize measures; with references, add the distances between the two distributions.

    The distance is the first Wasserstein distance: how far coverage (percentage points) or stroke width (pixels) must
    move on average to turn one distribution into the other.
    """
    values = list(measures.values())
    coverage = {name: value.coverage for name, value in measures.items()}
    outside = [value.outside for value in values if value.outside is not None]
    result: dict[str, Any] = {
        "sketches": len(values),
        "coverage_percent": _spread(list(coverage.values())),
        "nearly_blank": sorted(name for name, share in coverage.items() if share < BLANK_BELOW),
        "nearly_full": sorted(name for name, share in coverage.items() if share > FULL_ABOVE),
        "stroke_width_pixels": _spread(_pooled(values)),
        "outside_mask_percent": _spread(outside) if outside else None,
    }
    if references:
        theirs = [reference.coverage for reference in references]
        distance = scipy.stats.wasserstein_distance
        result["reference"] = {
            "sketches": len(references),
            "coverage_percent": _spread(theirs),
            "stroke_width_pixels": _spread(_pooled(references)),
            "coverage_distance": round(float(distance(list(coverage.values()), theirs)), 3),
            "stroke_width_distance": round(float(distance(_pooled(values), _pooled(references))), 3),
        }
    return result


def _pooled(measures: Sequence[SketchMeasures]) -> np.ndarray:
    widths = [value.widths for value in measures if len(value.widths)]
    return np.concatenate(widths) if widths else np.zeros(1)


def _spread(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    points = {"min": 0, "p5": 5, "median": 50, "p95": 95, "max": 100}
    spread = {name: round(float(np.percentile(values, share)), 2) for name, share in points.items()}
    return {"mean": round(float(np.mean(values)), 2), **spread}
