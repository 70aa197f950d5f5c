"""Sketches drawn per second by one core, and peak memory; there is no baseline.

python tools/benchmark.py sketches --photos FOLDER --count 500
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ms_unireid.apps.arguments import at_least, input_folder
from ms_unireid.runtime import describe


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sub-command."""
    parser.add_argument("--photos", type=input_folder, required=True, help="folder of photos, repeated as needed")
    parser.add_argument("--count", type=at_least(1), default=500, help="number of sketches")
    parser.add_argument("--background", default="mediapipe")
    parser.add_argument("--style", default="pencil")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Draw the photos of the folder, repeated up to the count."""
    from ms_unireid.apps.sketch.recipe import make_recipe
    from ms_unireid.data.photo_sets import folder_photos

    photos, recipe = folder_photos(options.photos), make_recipe(options.background, options.style)
    with tempfile.TemporaryDirectory() as folder:
        return _draw(Path(folder), [photos.folder / name for name in photos.names], recipe, options.count)


def to_text(result: dict[str, Any]) -> str:
    """Format the measurements as text."""
    return (
        f"{result['what']}: {result['photos_per_second_per_core']:.1f} photos per second of CPU time; peak memory "
        f"{result['peak_mib_after_a_tenth']:.0f} MiB after a tenth of them, {result['peak_mib']:.0f} MiB at the end"
    )


def _draw(folder: Path, photos: list[Path], recipe: Any, count: int) -> dict[str, Any]:
    """Draw `count` photos as the command does; repeated ones are links."""
    from ms_unireid.apps.sketch.artist import Artist
    from ms_unireid.apps.sketch.build import build_sketches

    (folder / "photos").mkdir()
    names = [f"{i:06d}{photos[i % len(photos)].suffix}" for i in range(count)]
    for i, name in enumerate(names):
        (folder / "photos" / name).symlink_to(photos[i % len(photos)].resolve())
    Artist(recipe).prepare()  # its cost does not depend on the count
    peaks, start, bar = {}, time.process_time(), tqdm(total=count, unit="photo")

    def sample(done: int, total: int) -> None:
        bar.update()
        if done in (max(1, total // 10), total):
            peaks[done] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    report = build_sketches(folder / "photos", names, folder / "sketches", recipe, progress=sample)
    seconds = time.process_time() - start
    bar.close()
    return {
        "what": f"{count} sketches of size {list(recipe.size)}, background {recipe.background}, style {recipe.style}",
        "photos_per_second_per_core": count / seconds,
        "cpu_milliseconds_per_photo": 1000 * seconds / count,
        "peak_mib_after_a_tenth": peaks[max(1, count // 10)],
        "peak_mib": peaks[count],
        "failed": len(report.failures),
        "machine": describe("CPU"),
    }


JOBS = {}
