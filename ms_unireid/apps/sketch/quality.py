"""Measures of sketches: how much is inked, how much of it beside the person, how wide the strokes are."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from ms_unireid.apps.sketch.artist import Artist
from ms_unireid.apps.sketch.pictures import read_grey, resize
from ms_unireid.apps.sketch.recipe import DEFAULT_SIZE, Recipe

INK_BELOW = 128  # mid-grey: strokes count, the smear around them does not
BLANK, FULL = 2.0, 40.0  # percent of coverage between which a sketch is neither blank nor a blot
_WIDTHS_PER_SKETCH = 400  # so that each sketch has the same say
_TOLERANCE = 2  # pixels beside the mask in which an outline may lie


@dataclass(frozen=True)
class SketchMeasures:
    """Of one sketch.

    Attributes:
        coverage: Share of inked pixels, percent 0-100.
        widths: Stroke widths in pixels of a drawing 384 high, a sorted sample of equal size for each sketch.
        outside: Share of the ink that lies beside the person, percent 0-100; None without a mask.
    """

    coverage: float
    widths: np.ndarray
    outside: float | None = None


def measure(sketch: np.ndarray, mask: np.ndarray | None = None) -> SketchMeasures:
    """Measure a sketch.

    Args:
        sketch: uint8 (H, W), black on white, of any size; it is measured at 384x128.
        mask: Opacity of the person, float32 (h, w), 0-1.
    """
    ink = resize(sketch, DEFAULT_SIZE) < INK_BELOW
    outside = None
    if mask is not None:
        person = ndimage.binary_dilation(resize(mask, DEFAULT_SIZE) > 0.05, iterations=_TOLERANCE)
        outside = 100 * float((ink & ~person).sum() / max(ink.sum(), 1))
    return SketchMeasures(100 * float(ink.mean()), stroke_widths(ink), outside)


def stroke_widths(ink: np.ndarray) -> np.ndarray:
    """Return the widths of strokes along their middle lines, in pixels, sorted; empty without ink.

    The middle line is where the distance to the paper is greatest among the neighbours; twice of it is the width.
    """
    distance = ndimage.distance_transform_edt(np.pad(ink, 1))[1:-1, 1:-1]
    middle = ink & (distance == ndimage.maximum_filter(distance, 3))
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
    """Measure the sketches of photos, with the mask that the recipe's background gives, if it gives any.

    Args:
        photos: Folder of the photos.
        sketches: By relative path of each photo, the file of its sketch.
        recipe: Its background tells what is beside the person; `none` leaves that out.
        progress: Called with (sketches done, sketches in all).

    Raises:
        DataError: If a sketch or a photo cannot be read.
        UserError: If the background cannot be used.
    """
    artist = Artist(recipe) if recipe.background != "none" else None
    measures = {}
    for done, (photo, sketch) in enumerate(sketches.items(), 1):
        mask = artist.cut_out(photos / photo, photo).mask if artist else None
        measures[photo] = measure(read_grey(sketch), mask)
        if progress:
            progress(done, len(sketches))
    return measures


def measure_references(files: Iterable[Path]) -> list[SketchMeasures]:
    """Measure other drawings, for example those of artists.

    Raises:
        DataError: If one cannot be read.
    """
    return [measure(read_grey(file)) for file in files]


def summarize(measures: Mapping[str, SketchMeasures], references: Sequence[SketchMeasures] = ()) -> dict[str, Any]:
    """Sum measures up; with references, tell the distance between the distributions.

    The distance is the first Wasserstein distance: how far ink coverage (in percentage points) or stroke width (in
    pixels) must be moved on average to turn one distribution into the other.
    """
    values = list(measures.values())
    coverage = {name: value.coverage for name, value in measures.items()}
    outside = [value.outside for value in values if value.outside is not None]
    result: dict[str, Any] = {
        "sketches": len(values),
        "coverage_percent": _spread(list(coverage.values())),
        "nearly_blank": sorted(name for name, share in coverage.items() if share < BLANK),
        "nearly_full": sorted(name for name, share in coverage.items() if share > FULL),
        "stroke_width_pixels": _spread(_pooled(values)),
        "outside_mask_percent": _spread(outside) if outside else None,
    }
    if references:
        from scipy.stats import wasserstein_distance  # slow to import

        theirs = [reference.coverage for reference in references]
        result["reference"] = {
            "sketches": len(references),
            "coverage_percent": _spread(theirs),
            "stroke_width_pixels": _spread(_pooled(references)),
            "coverage_distance": round(float(wasserstein_distance(list(coverage.values()), theirs)), 3),
            "stroke_width_distance": round(float(wasserstein_distance(_pooled(values), _pooled(references))), 3),
        }
    return result


def _pooled(measures: Sequence[SketchMeasures]) -> np.ndarray:
    widths = [value.widths for value in measures if len(value.widths)]
    return np.concatenate(widths) if widths else np.zeros(1)


def _spread(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    points = {"min": 0, "p5": 5, "median": 50, "p95": 95, "max": 100}
    spread = {name: round(float(np.percentile(values, share)), 2) for name, share in points.items()}
    return {"mean": round(float(np.mean(values)), 2), **spread}
