"""Sketches of a whole folder: in several processes, resumable, each file whole, each failure told."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ms_unireid.apps.sketch import manifest, workers
from ms_unireid.apps.sketch.artist import Artist
from ms_unireid.apps.sketch.recipe import Recipe
from ms_unireid.apps.sketch.sketch_file import finished, note_of, sketch_names, sketch_path, write_sketch
from ms_unireid.errors import ConfigError, DataError, UserError

# One photo's job: its relative path and that of its sketch.
_Job = tuple[str, str]


@dataclass
class Report:
    """What a run did.

    Attributes:
        drawn: Photos with at least one new sketch.
        kept: Photos whose sketches were all there already.
        notes: By photo, what went otherwise than usual.
        failures: By photo, why it has no sketch.
    """

    drawn: int = 0
    kept: int = 0
    notes: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Result:
    drawn: bool = False
    note: str = ""
    failure: str = ""


def build_sketches(
    photos: Path,
    names: Sequence[str],
    output: Path,
    recipe: Recipe,
    processes: int = 1,
    redo: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Draw the sketches of photos, leave out those that are there, and record all in `sketches.json`.

    What is written depends on photos and recipe alone: not on `processes`, nor on how often the run was killed and
    started again.

    Args:
        photos: Folder of the photos.
        names: Relative paths of all its photos, with forward slashes.
        output: Folder of the sketches; made if absent.
        recipe: How to draw.
        processes: How many share the work; more than one are spawned.
        redo: Draw anew if the folder holds sketches of another recipe.
        progress: Called with (photos done, photos in all).

    Raises:
        UserError: If nothing can be drawn at all: a package is missing, a parameter makes no sense, the folder holds
            something else or cannot be written. A photo that fails is no error, see `Report.failures`.
    """
    _check_places(photos, names, output, processes)
    manifest.open_folder(output, recipe, redo)
    Artist(recipe).prepare()  # what is missing is told before anything is written
    manifest.write(output, recipe, len(names), complete=False)
    report = Report()
    jobs = list(sketch_names(names).items())
    for done, (job, result) in enumerate(workers.each(_work, jobs, processes, _start, photos, output, recipe), 1):
        _add(report, job[0], result)
        if progress:
            progress(done, len(jobs))
    manifest.write(output, recipe, len(names), True, report.notes, report.failures)
    return report


def _check_places(photos: Path, names: Sequence[str], output: Path, processes: int) -> None:
    if processes < 1:
        raise ConfigError(f"workers must be at least 1, not {processes}")
    if not names:
        raise DataError(f"{photos}: there is no photo to draw; expected picture files in it or its sub-folders")
    inner, outer = output.resolve(), photos.resolve()
    if inner == outer or outer in inner.parents:
        raise DataError(f"{output}: lies inside the photo folder {photos}; choose an --output beside it")


def _add(report: Report, name: str, result: _Result | workers.ProcessDied) -> None:
    if isinstance(result, workers.ProcessDied):
        result = _Result(failure=str(result))
    if result.failure:
        report.failures[name] = result.failure
        return
    report.drawn += result.drawn
    report.kept += not result.drawn
    if result.note:
        report.notes[name] = result.note


class _Worker:
    """What one process keeps between jobs."""

    def __init__(self, photos: Path, output: Path, recipe: Recipe):
        self.photos, self.output, self.recipe = photos, output, recipe
        self.artist, self.digest = Artist(recipe), recipe.digest()

    def work(self, job: _Job) -> _Result:
        photo, sketch = job
        paths = {number: sketch_path(self.output, sketch, number) for number in range(1, self.recipe.variations + 1)}
        there = {number: finished(path, self.recipe.size, photo, self.digest) for number, path in paths.items()}
        missing = [number for number, texts in there.items() if texts is None]
        if not missing:
            return _Result(note=note_of(there[1]))
        try:
            note = self._draw(photo, {number: paths[number] for number in missing})
        except DataError as error:
            return _Result(failure=self._without_folder(str(error)))
        except UserError:
            raise  # the disk, a package or an option: no other photo would do better
        except Exception as error:  # whatever a library thinks of this photo
            return _Result(failure=self._without_folder(f"{photo}: {type(error).__name__}: {error}"))
        return _Result(drawn=True, note=note)

    def _draw(self, photo: str, paths: Mapping[int, Path]) -> str:
        cut = self.artist.cut_out(self.photos / photo, photo)
        for number, path in paths.items():
            write_sketch(path, self.artist.draw(cut, photo, number), photo, self.digest, cut.note)
        return cut.note

    def _without_folder(self, message: str) -> str:
        """Word a failure so that the record does not depend on where the folder lies."""
        return " ".join(message.replace(f"{self.photos}/", "").split())


_worker: _Worker | None = None


def _start(photos: Path, output: Path, recipe: Recipe) -> None:
    global _worker
    _worker = _Worker(photos, output, recipe)


def _work(job: _Job) -> _Result:
    return _worker.work(job)
