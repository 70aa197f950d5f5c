"""Draws the sketches of a whole folder, and averages those of each identity."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ms_unireid.apps.sketch.artist import Artist
from ms_unireid.apps.sketch.pictures import read_sketch, resize
from ms_unireid.apps.sketch.recipe import Recipe
from ms_unireid.apps.sketch.sketch_folder import (
    MANIFEST,
    check_folder,
    note_of_finished,
    read_manifest,
    sketch_names,
    sketch_path,
    write_manifest,
    write_sketch,
)
from ms_unireid.apps.sketch.workers import WorkerDied, run_jobs
from ms_unireid.errors import ConfigError, DataError, UserError


@dataclass
class Report:
    """What a run did.

    Attributes:
        drawn: Photos with at least one new sketch.
        kept: Photos that already had all of their sketches.
        notes: Notes on unusual photos, by name.
        failures: Reasons why photos have no sketch, by name; each begins with the photo.
    """

    drawn: int = 0
    kept: int = 0
    notes: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def build_sketches(
    photos: Path,
    names: Sequence[str],
    output: Path,
    recipe: Recipe,
    processes: int = 1,
    redo: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Draw the missing sketches of photos and write `sketches.json`.

    The files depend on photos and recipe alone: not on `processes`, nor on how often the run was killed and resumed.

    Args:
        photos: Folder of the photos.
        names: Relative paths of all its photos, with forward slashes.
        output: Folder of the sketches; made if absent.
        recipe: How to draw.
        processes: Number of worker processes.
        redo: Draw again if the folder has sketches of another recipe.
        progress: Called with (photos done, photos in all).

    Raises:
        UserError: If a package is missing, an option is out of range, or the folder cannot be used or written. A
            photo that fails raises nothing, see `Report.failures`.
    """
    _check_places(photos, names, output, processes)
    check_folder(output, recipe, redo)
    Artist(recipe).prepare()  # fails before anything is written
    report, jobs = Report(), list(sketch_names(names).items())
    write_manifest(output, recipe, len(names), False, report.notes, report.failures)
    for done, (job, result) in enumerate(run_jobs(_work, jobs, processes, _start, photos, output, recipe), 1):
        _add(report, job[0], result)
        if progress:
            progress(done, len(jobs))
    write_manifest(output, recipe, len(names), True, report.notes, report.failures)
    return report


def merge_sketches(
    sketches: Path,
    identities: Mapping[str, Hashable],
    output: Path,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Average the sketches of each identity, as the authors did; write the average under each sketch's name.

    Args:
        sketches: Folder that `build_sketches` filled.
        identities: The identity of each photo, by its relative path.
        output: Folder to write into; made if absent, replaced file by file.
        progress: Called with (identities done, identities in all).

    Returns:
        The number of identities.

    Raises:
        DataError: If a sketch is missing or damaged, or `output` is the folder of the sketches.
        UserError: If a file cannot be written.
    """
    if read_manifest(sketches) is None:
        raise DataError(f"{sketches}: has no {MANIFEST}; draw the sketches first, then merge them")
    if output.resolve() == sketches.resolve():
        raise DataError(f"{output}: is the folder of the sketches; merge into another one")
    names, groups = sketch_names(list(identities)), defaultdict(list)
    for photo, identity in identities.items():
        groups[identity].append(photo)
    for done, members in enumerate(groups.values(), 1):
        average = _average([read_sketch(sketch_path(sketches, names[photo])) for photo in members])
        for photo in members:
            write_sketch(sketch_path(output, names[photo]), average, photo, "merged")
        if progress:
            progress(done, len(groups))
    return len(groups)


# A job is the relative path of a photo and that of its sketch.
_Job = tuple[str, str]


@dataclass(frozen=True)
class _Result:
    drawn: bool = False
    note: str = ""
    failure: str = ""


class _Worker:
    """State of one process."""

    def __init__(self, photos: Path, output: Path, recipe: Recipe):
        self.photos, self.output, self.recipe = photos, output, recipe
        self.artist, self.digest = Artist(recipe), recipe.digest()

    def work(self, job: _Job) -> _Result:
        photo, sketch = job
        paths = {number: sketch_path(self.output, sketch, number) for number in range(1, self.recipe.variations + 1)}
        notes = {n: note_of_finished(path, self.recipe.size, photo, self.digest) for n, path in paths.items()}
        missing = [number for number, note in notes.items() if note is None]
        if not missing:
            return _Result(note=notes[1])
        try:
            note = self._draw(photo, {number: paths[number] for number in missing})
        except DataError as error:
            return _Result(failure=self._without_folder(str(error)))
        except UserError:
            raise  # the disk, a package or an option: every other photo would fail as well
        except Exception as error:  # a library cannot handle this photo
            return _Result(failure=self._without_folder(f"{photo}: {type(error).__name__}: {error}"))
        return _Result(drawn=True, note=note)

    def _draw(self, photo: str, paths: Mapping[int, Path]) -> str:
        cut = self.artist.cut_out(self.photos / photo, photo)
        for number, path in paths.items():
            write_sketch(path, self.artist.draw(cut, photo, number), photo, self.digest, cut.note)
        return cut.note

    def _without_folder(self, message: str) -> str:
        """Remove the photo folder from a message, so that the manifest does not depend on where it lies."""
        return " ".join(message.replace(f"{self.photos}/", "").split())


_worker: _Worker | None = None


def _start(photos: Path, output: Path, recipe: Recipe) -> None:
    global _worker
    _worker = _Worker(photos, output, recipe)


def _work(job: _Job) -> _Result:
    return _worker.work(job)


def _add(report: Report, name: str, result: _Result | WorkerDied) -> None:
    if isinstance(result, WorkerDied):
        result = _Result(failure=f"{name}: {result}")
    if result.failure:
        report.failures[name] = result.failure
        return
    report.drawn += result.drawn
    report.kept += not result.drawn
    if result.note:
        report.notes[name] = result.note


def _check_places(photos: Path, names: Sequence[str], output: Path, processes: int) -> None:
    if processes < 1:
        raise ConfigError(f"workers must be at least 1, not {processes}")
    if not names:
        raise DataError(f"{photos}: there is no photo to draw; expected picture files in it or its sub-folders")
    inner, outer = output.resolve(), photos.resolve()
    if inner == outer or outer in inner.parents:
        raise DataError(f"{output}: lies inside the photo folder {photos}; choose an --output beside it")


def _average(pictures: list[np.ndarray]) -> np.ndarray:
    size = pictures[0].shape
    return np.rint(np.mean([resize(picture, size) for picture in pictures], axis=0)).astype(np.uint8)
