"""Exact search against all similarities in float64, sorted."""

import numpy as np
import pytest

from ms_unireid.apps.search.engines import exact
from ms_unireid.apps.search.engines.exact import exact_search
from ms_unireid.evaluation.similarity import normalize_rows


def features(rows: int, dtype: str, dim: int = 32, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return normalize_rows(rng.standard_normal((rows, dim), np.float32)).astype(dtype)


def literal(feats: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    unit = queries / np.linalg.norm(queries.astype(np.float64), axis=1, keepdims=True)
    similarity = unit @ feats.astype(np.float64).T
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(similarity, order, axis=1)


@pytest.fixture(params=[7, 64, 1 << 15], ids=["chunks of 7", "chunks of 64", "one chunk"])
def chunks(request, monkeypatch):
    monkeypatch.setattr(exact, "SEARCH_ROWS", request.param)


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("count", [1, 2, 33, 70])
@pytest.mark.parametrize("k", [1, 10, 500])
def test_the_same_as_sorting_everything(dtype, count, k):
    feats, queries = features(300, dtype), 5 * np.random.default_rng(2).standard_normal((count, 32), np.float32)
    rows, scores = exact_search(feats, queries, k)
    wanted_rows, wanted_scores = literal(feats, queries, k)
    np.testing.assert_allclose(scores, wanted_scores, atol=3e-7)
    # Where two similarities are closer than float32 tells, either may come first.
    assert (rows != wanted_rows).mean() < 0.01
    assert rows.shape == scores.shape == (count, min(k, 300))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_photos_of_the_same_content_come_in_their_order(dtype, monkeypatch):
    monkeypatch.setattr(exact, "SEARCH_ROWS", 16)
    one = features(1, dtype)
    feats = np.concatenate([features(10, dtype, seed=3), np.repeat(one, 40, axis=0)])
    rows, scores = exact_search(feats, one.astype(np.float32), 20)
    assert rows[0].tolist() == list(range(10, 30)) and len(set(scores[0].tolist())) == 1


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_no_score_is_above_one(dtype):
    feats = features(2000, dtype, dim=512)
    _, scores = exact_search(feats, feats.astype(np.float32), 1)
    assert scores.max() == 1 and scores.min() > 0.999


def test_half_precision_rounds_the_features_alone():
    """The query's own rounding must not show: a float16 query alone would be off by 1e-4."""
    feats = features(2000, "float16", dim=512)
    queries = np.random.default_rng(5).standard_normal((20, 512), np.float32)
    _, scores = exact_search(feats, queries, 2000)
    np.testing.assert_allclose(scores, literal(feats, queries, 2000)[1], atol=2e-7)


def test_memory_mapped_features(tmp_path):
    feats = features(100, "float16")
    feats.tofile(tmp_path / "f")
    mapped = np.memmap(tmp_path / "f", "float16", "r", shape=feats.shape)
    rows, _ = exact_search(mapped, feats[:3].astype(np.float32), 1)
    assert rows[:, 0].tolist() == [0, 1, 2]


def test_no_photos_and_no_finite_query():
    rows, scores = exact_search(np.zeros((0, 32), np.float16), np.ones((2, 32), np.float32), 5)
    assert rows.shape == scores.shape == (2, 0)
    with pytest.raises(ValueError, match="NaN"):
        exact_search(features(5, "float16"), np.full((1, 32), np.nan, np.float32), 5)
