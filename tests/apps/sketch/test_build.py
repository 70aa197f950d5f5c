"""Drawing a whole folder: layout, the same bytes after a resume, damaged files, failures."""

import json
import os
import sys

import numpy as np
import pytest
from apps.sketch.photo_factory import contents, person, photo_folder
from PIL import Image

from ms_unireid.apps.sketch import build as build_module
from ms_unireid.apps.sketch.artist import KEPT_WHOLE
from ms_unireid.apps.sketch.build import build_sketches
from ms_unireid.apps.sketch.recipe import make_recipe
from ms_unireid.apps.sketch.sketch_folder import find_sketch, note_of_finished, sketch_names, sketch_path
from ms_unireid.apps.sketch.workers import WorkerDied, run_jobs
from ms_unireid.errors import ConfigError, DataError, UserError


def names_of(photos) -> list[str]:
    return sorted(p.relative_to(photos).as_posix() for p in photos.rglob("*") if p.is_file())


def recipe_for(root, **others):
    return make_recipe("mask", others.pop("style", "pencil"), [f"folder={root / 'masks'}"], **others)


def draw(root, output="sketches", **others):
    processes, redo = others.pop("processes", 1), others.pop("redo", False)
    photos = root / "photos"
    return build_sketches(photos, names_of(photos), root / output, recipe_for(root, **others), processes, redo)


def manifest(root, output="sketches") -> dict:
    return json.loads((root / output / "sketches.json").read_text(encoding="utf-8"))


@pytest.fixture
def root(tmp_path):
    photo_folder(tmp_path)
    return tmp_path


def test_every_photo_gets_a_sketch_under_its_relative_path(root):
    report = draw(root)
    assert (report.drawn, report.kept, report.failures, report.notes) == (6, 0, {}, {})
    for i in range(6):
        with Image.open(root / "sketches" / "cam" / f"{i}.png") as sketch:
            assert (sketch.mode, sketch.size) == ("L", (128, 384))
            assert 0.02 < (np.asarray(sketch) < 128).mean() < 0.4
    found = manifest(root)
    assert found["complete"] and found["photos"] == 6 and found["failed"] == 0
    assert found["recipe"]["style"]["name"] == "pencil" and found["recipe"]["versions"]["numpy"] == np.__version__


def test_the_bytes_do_not_depend_on_the_processes(root):
    draw(root)
    draw(root, "other", processes=2)
    assert contents(root / "other") == contents(root / "sketches")


def test_finished_sketches_are_kept_and_damaged_ones_are_drawn_again(root):
    draw(root)
    whole = contents(root / "sketches")
    files = [root / "sketches" / "cam" / f"{i}.png" for i in range(5)]
    data = files[0].read_bytes()
    files[0].write_bytes(data[: len(data) // 2])
    files[1].write_bytes(data[:-200] + bytes(100) + data[-100:])  # zeroed blocks, as after a power cut
    files[2].unlink()
    files[3].write_bytes(b"")
    person((128, 384)).convert("L").save(files[4])  # undamaged, but drawn by another tool
    (root / "sketches" / "cam" / ".0.partial.png").write_bytes(b"left by a kill")
    report = draw(root)
    assert (report.drawn, report.kept) == (5, 1)
    assert contents(root / "sketches") == whole


def test_a_sketch_of_another_photo_or_recipe_is_not_finished(root):
    draw(root)
    path = root / "sketches" / "cam" / "0.png"
    digest = recipe_for(root).digest()
    assert note_of_finished(path, (384, 128), "cam/0.png", digest) is not None
    assert note_of_finished(path, (384, 128), "cam/1.png", digest) is None
    assert note_of_finished(path, (384, 128), "cam/0.png", recipe_for(root, seed=2).digest()) is None
    assert note_of_finished(path, (192, 64), "cam/0.png", digest) is None


def test_changed_options_are_refused_until_redo(root):
    draw(root)
    before = contents(root / "sketches")
    with pytest.raises(DataError, match=r"sketches\.json: drawn with other options .*seed was 1, now 2.*--redo"):
        draw(root, seed=2)
    assert contents(root / "sketches") == before
    assert draw(root, seed=2, redo=True).drawn == 6
    draw(root, "fresh", seed=2)
    assert contents(root / "sketches") == contents(root / "fresh")


def test_variations_have_their_own_folders_and_can_be_added_later(root):
    draw(root)
    plain = contents(root / "sketches" / "cam")
    assert draw(root, variations=3).drawn == 6
    assert contents(root / "sketches" / "cam") == plain
    for number in (2, 3):
        path = sketch_path(root / "sketches", "cam/0.png", number)
        assert path == root / "sketches" / "variations" / str(number) / "cam" / "0.png"
        assert (
            np.abs(np.asarray(Image.open(path), int) - np.asarray(Image.open(root / "sketches/cam/0.png"))).mean() > 2
        )
    draw(root, "at_once", variations=3)
    assert contents(root / "at_once") == contents(root / "sketches")
    with pytest.raises(DataError, match="variations was 3, now 1"):
        draw(root)


def test_a_failing_photo_is_reported_and_does_not_stop_the_run(root):
    (root / "photos" / "cam" / "1.png").write_bytes(b"junk")
    (root / "masks" / "cam" / "2.png").unlink()
    Image.new("L", (60, 160)).save(root / "masks" / "cam" / "3.png")
    report = draw(root)
    assert (report.drawn, sorted(report.failures), report.notes) == (
        4,
        ["cam/1.png", "cam/2.png"],
        {"cam/3.png": KEPT_WHOLE},
    )
    found = manifest(root)
    assert found["failures"]["cam/1.png"].startswith("cam/1.png: not a picture") and found["failed"] == 2
    assert found["notes"] == {"cam/3.png": KEPT_WHOLE}
    again = draw(root)  # notes of kept sketches are kept
    assert (again.kept, again.notes, again.failures) == (4, report.notes, report.failures)
    person().save(root / "photos" / "cam" / "1.png")
    assert draw(root).drawn == 1 and manifest(root)["failed"] == 1


def test_an_exception_of_a_library_fails_only_that_photo(root, monkeypatch):
    class Failing(build_module.Artist):
        def cut_out(self, photo, name):
            if name == "cam/2.png":
                raise RuntimeError("no idea")
            return super().cut_out(photo, name)

    monkeypatch.setattr(build_module, "Artist", Failing)
    assert draw(root).failures == {"cam/2.png": "cam/2.png: RuntimeError: no idea"}


def test_files_of_others_are_never_changed(root):
    theirs = root / "imgs-sketch2" / "cam"
    theirs.mkdir(parents=True)
    person().save(theirs / "0.png")
    before = contents(root / "imgs-sketch2")
    for redo in (False, True):
        with pytest.raises(DataError, match="this tool did not draw them"):
            draw(root, "imgs-sketch2", redo=redo)
    assert contents(root / "imgs-sketch2") == before


def test_folders_that_cannot_be_used(root):
    with pytest.raises(DataError, match="lies inside the photo folder"):
        draw(root, "photos/sketches")
    (root / "file").write_text("x")
    with pytest.raises(DataError, match="not a folder"):
        draw(root, "file")
    with pytest.raises(ConfigError, match="workers must be at least 1"):
        draw(root, processes=0)
    assert not (root / "photos" / "sketches").exists()


def test_a_full_disk_stops_the_run_and_the_next_run_resumes(root, monkeypatch):
    draw(root, "straight")
    real, written = os.fsync, []

    def fsync(number):
        written.append(number)
        if len(written) > 3:
            raise OSError(28, "No space left on device")
        real(number)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UserError, match="No space left on device"):
        draw(root)
    assert not manifest(root)["complete"]
    monkeypatch.undo()
    assert 0 < draw(root).kept < 6
    assert contents(root / "sketches") == contents(root / "straight")


def test_an_output_folder_that_cannot_be_made_is_reported(root):
    (root / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        draw(root, "file/sketches")


def test_photos_that_differ_only_in_the_suffix_keep_their_names(root):
    person().save(root / "photos" / "cam" / "0.jpg")
    names = sketch_names(names_of(root / "photos"))
    assert names["cam/0.jpg"] == "cam/0.jpg" and names["cam/0.png"] == "cam/0.png"
    assert sketch_names(["x/a.jpg", "x/b.jpg.jpg"]) == {"x/a.jpg": "x/a.png", "x/b.jpg.jpg": "x/b.jpg.png"}
    draw(root)
    with Image.open(root / "sketches" / "cam" / "0.jpg") as sketch:
        assert sketch.format == "PNG"
    assert find_sketch(root / "sketches", "cam/0.jpg", "cam/0.jpg").name == "0.jpg"
    assert find_sketch(root / "sketches", "cam/9.jpg", "cam/9.png") is None


def work(job):
    if job == "dies":
        os._exit(7)
    if job == "refuses":
        raise ConfigError("no")
    return job * 2


def start():
    pass


def test_a_job_that_crashes_its_process_fails_alone():
    jobs = [*"abc", "dies", *"defgh"]
    results = dict(run_jobs(work, jobs, 2, start))
    assert results.keys() == set(jobs)
    assert isinstance(results.pop("dies"), WorkerDied)
    assert all(result == job * 2 for job, result in results.items())


def test_an_exception_of_a_job_ends_the_run():
    with pytest.raises(ConfigError, match="no"):
        list(run_jobs(work, ["a", "refuses", "b"], 2, start))


def test_file_names_that_are_not_utf_8(root):
    name = "cam/ü 名 \udcff.png" if sys.platform == "linux" else "cam/ü 名.png"
    person().save(root / "photos" / "x.png")
    os.rename(root / "photos" / "x.png", root / "photos" / name)
    report = build_sketches(root / "photos", [name], root / "named", make_recipe("none"))
    assert (report.drawn, report.failures) == (1, {})
    assert build_sketches(root / "photos", [name], root / "named", make_recipe("none")).kept == 1
