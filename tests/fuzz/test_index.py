"""Damaged indexes rank as before, or are refused; an update then makes them right, or refuses them too."""

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from apps.search.index_factory import check, colour_of, make_earlier, put_photo, put_photos, update
from fixtures.test_old_files import ARCHIVE
from fuzz.fuzzing import damaged, outcome, tries
from hypothesis import given
from hypothesis import strategies as st

from ms_unireid.apps.search.engines.embedded import PhotoIndex
from ms_unireid.apps.search.engines.faiss import (
    FAISS_FILE,
    FaissIndex,
    build_approximate,
    sample_photos,
)
from ms_unireid.errors import UserError


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Make an index of eleven photos and one that cannot be read, with an approximate index."""
    folder = tmp_path_factory.mktemp("index")
    put_photos(folder / "photos", range(10))
    put_photo(folder / "photos" / "0_c1_20240501123015.png", colour_of(10))
    (folder / "photos" / "bad.png").write_text("no picture")
    update(folder / "index", folder / "photos")
    index = PhotoIndex(folder / "index")
    build_approximate(index, {"photos": sample_photos(index, 5)})
    return folder


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> Path:
    """Unpack an index of an earlier version, without checksums."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, [one for one in archive if one.name.startswith("./index")], filter="data")
    return folder


def search(folder: Path) -> tuple:
    """Open an index, exact and approximate; return all that a search uses."""
    index = PhotoIndex(folder)
    queries = np.eye(4, index.dim, dtype=np.float32)
    found = FaissIndex(folder).search(queries, 5) if (folder / FAISS_FILE).exists() else ((), ())
    known = [(index.person(row), index.taken(row), index.camera(row)) for row in range(index.count)]
    return index.photos, known, index.features.tolist(), [np.asarray(one).tolist() for one in found], index.whole


@st.composite
def overwritten(draw, files: dict[str, bytes]) -> tuple[str, bytes]:
    """Draw one of the files with a few bytes changed in their places, which a database may not notice."""
    name = draw(st.sampled_from(sorted(files)))
    content = bytearray(files[name])
    for place, mask in draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(1, 255)), min_size=1)):
        content[place] ^= mask
    return name, bytes(content)


def put_damage(data: st.DataObject, folder: Path, target: Path) -> Path:
    """Copy an index with one of its files damaged."""
    target.mkdir(exist_ok=True)
    for file in target.iterdir():
        file.unlink()
    files = {file.name: file.read_bytes() for file in folder.iterdir() if file.name != ".lock"}
    name, content = data.draw(damaged(files) | overwritten(files))
    for other, whole in files.items():
        (target / other).write_bytes(content if other == name else whole)
    return target


@tries(300)
@given(st.data())
def test_a_damaged_index(made, data):
    damage = put_damage(data, made / "index", made / "damaged")
    found = outcome(search, damage)
    assert found is None or found == search(made / "index")
    try:
        update(damage, made / "photos")
    except UserError:
        return
    check(damage, (made / "photos").glob("0*.png"))


@tries(150)
@given(st.data())
def test_a_damaged_index_without_facts(made, data):
    whole = made / "without_facts"
    if not whole.exists():
        make_earlier(shutil.copytree(made / "index", whole, ignore=shutil.ignore_patterns("approximate*")), 2)
    damage = put_damage(data, whole, made / "damaged")
    found = outcome(search, damage)
    assert found is None or found == search(whole)
    try:
        update(damage, made / "photos")
    except UserError:
        return
    assert check(damage, (made / "photos").glob("0*.png")).cameras == {"1": 1}


@tries(150)
@given(st.data())
def test_a_damaged_index_of_an_earlier_version(old, data):
    damage = put_damage(data, old / "index", old / "damaged")
    found = outcome(search, damage)
    if found is not None:
        lengths = np.linalg.norm(found[2], axis=1)
        assert abs(lengths - 1).max() < 0.01 and all(".." not in photo.parts for photo in found[0])
