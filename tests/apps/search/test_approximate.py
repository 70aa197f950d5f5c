"""Approximate search against exact search, on clustered features."""

import shutil

import numpy as np
import pytest
from apps.search.index_factory import put_photos, update

from ms_unireid.apps.search.engines.embedded import PhotoIndex
from ms_unireid.apps.search.engines.exact import exact_search
from ms_unireid.apps.search.engines.faiss import (
    FAISS_ABOUT,
    FAISS_FILE,
    FaissIndex,
    build_approximate,
    sample_photos,
)
from ms_unireid.apps.search.index_writer import IndexWriter
from ms_unireid.apps.search.manifest import Photo
from ms_unireid.errors import DataError
from ms_unireid.evaluation.similarity import normalize_rows

ROWS, DIM = 3000, 32


def clustered(rows: int, seed: int) -> np.ndarray:
    centres = np.random.default_rng(0).standard_normal((30, DIM), np.float32)
    rng = np.random.default_rng(seed)
    return centres[rng.integers(0, 30, rows)] + 0.5 * rng.standard_normal((rows, DIM), np.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Make an index of features without photo files."""
    folder = tmp_path_factory.mktemp("approximate")
    put_photos(folder / "photos", range(1))
    update(folder / "index", folder / "photos")
    writer = IndexWriter(folder / "index", PhotoIndex(folder / "index").describe())
    photos = [Photo(1, f"{i}.png", 1, 1, i.to_bytes(32, "big")) for i in range(1, ROWS)]
    writer.append(photos, normalize_rows(clustered(ROWS - 1, 1)))
    writer.close()
    return folder / "index"


@pytest.fixture
def index(made, tmp_path) -> PhotoIndex:
    shutil.copytree(made, tmp_path / "index")
    return PhotoIndex(tmp_path / "index")


def test_recall_is_measured_against_exact_search(index):
    queries = clustered(50, 2)
    about = build_approximate(index, {"queries": queries, "photos": sample_photos(index, 40)}, recall=0.9)
    found, scores = FaissIndex(index.folder).search(queries, 10)
    exact, exact_scores = exact_search(index.features, queries, 10)
    share = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), exact.tolist(), strict=True)])
    assert about["recall_at_10"]["queries"] == pytest.approx(share) and share >= 0.9
    assert about["lists_looked_into"] < about["lists"] and about["queries"] == {"queries": 50, "photos": 40}
    same = found == exact
    np.testing.assert_allclose(scores[same], exact_scores[same], atol=1e-5)
    recalls = [one["queries"] for one in about["measured"]]
    assert recalls == sorted(recalls)


def test_a_recall_of_one_searches_as_many_lists_as_needed(index):
    queries = np.random.default_rng(9).standard_normal((30, DIM), np.float32)
    about = build_approximate(index, {"queries": queries}, recall=1.0)
    assert about["recall_at_10"]["queries"] == 1.0
    found, exact = FaissIndex(index.folder).search(queries, 10)[0], exact_search(index.features, queries, 10)[0]
    assert (found == exact).mean() > 0.99


def test_no_score_is_above_one(index):
    build_approximate(index, {"queries": clustered(5, 3)})
    _, scores = FaissIndex(index.folder).search(index.features[:500].astype(np.float32), 1)
    assert scores.max() == 1


def test_a_changed_index_needs_a_new_approximate_index(index):
    build_approximate(index, {"queries": clustered(5, 3)})
    writer = IndexWriter(index.folder, PhotoIndex(index.folder).describe())
    writer.append([Photo(1, "new.png", 1, 1, b"x" * 32)], normalize_rows(clustered(1, 4)))
    writer.close()
    with pytest.raises(DataError, match="has changed since"):
        FaissIndex(index.folder)


def test_missing_and_damaged_files_are_refused(index):
    with pytest.raises(DataError, match="is missing or damaged"):
        FaissIndex(index.folder)
    build_approximate(index, {"queries": clustered(5, 3)})
    (index.folder / FAISS_FILE).write_bytes((index.folder / FAISS_FILE).read_bytes()[:1000])
    with pytest.raises(DataError, match="is missing or damaged"):
        FaissIndex(index.folder)
    (index.folder / FAISS_ABOUT).write_text("{")
    with pytest.raises(DataError, match="is missing or damaged"):
        FaissIndex(index.folder)


def test_a_tiny_index(tmp_path):
    put_photos(tmp_path / "photos", range(3))
    update(tmp_path / "index", tmp_path / "photos")
    index = PhotoIndex(tmp_path / "index")
    build_approximate(index, {"photos": sample_photos(index, 100)})
    rows, _ = FaissIndex(index.folder).search(sample_photos(index, 3), 10)
    assert sorted(rows[0].tolist()) == [-1] * 7 + [0, 1, 2]
