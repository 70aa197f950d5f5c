"""Cosines in blocks: normalised rows, equal columns for equal photos, one row equal to that of its block."""

import numpy as np
import pytest

from ms_unireid.evaluation import similarity as module
from ms_unireid.evaluation.similarity import given_blocks, normalize_rows, similarity_blocks, similarity_row


def features(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def whole(query_feats, gallery_feats):
    return np.concatenate([block.copy() for _, block in similarity_blocks(query_feats, gallery_feats)])


def test_rows_are_normalised():
    rows = np.array([[3, 4], [0, 0], [1e-3, 0]])
    found = normalize_rows(rows)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 0], [1, 0]], rtol=1e-6)


def test_rows_are_normalised_whatever_their_number():
    rows = features(0, 2500, 3)
    np.testing.assert_array_equal(normalize_rows(rows), np.concatenate([normalize_rows(row[None]) for row in rows]))
    rows[2400, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        normalize_rows(rows)


@pytest.mark.parametrize("gallery", [1, 7, 100])
@pytest.mark.parametrize("queries", [1, 30, 1200])
def test_blocks_are_the_product(queries, gallery):
    asked, searched = features(1, queries, 40), features(2, gallery, 40)
    rows = [rows for rows, _ in similarity_blocks(asked, searched)]
    np.testing.assert_array_equal(np.concatenate([np.arange(queries)[r] for r in rows]), np.arange(queries))
    unit = [
        f.astype(np.float64) / np.linalg.norm(f.astype(np.float64), axis=1, keepdims=True) for f in (asked, searched)
    ]
    np.testing.assert_allclose(whole(asked, searched), unit[0] @ unit[1].T, rtol=0, atol=1e-6)


@pytest.mark.parametrize("gallery", [2, 5, 7, 12, 33, 100, 999, 1000, 1001, 3075])
@pytest.mark.parametrize("queries", [1, 2, 3, 12, 255, 512])
def test_equal_photos_have_equal_similarities(queries, gallery):
    rng = np.random.default_rng(gallery)
    searched = features(gallery, gallery, 512)
    copies = np.unique([*rng.integers(0, gallery, gallery // 5 + 1), 0, *range(max(0, gallery - 5), gallery)])
    groups = [group for group in (copies[::2], copies[1::2]) if group.size]
    for group in groups:
        searched[group] = searched[group[-1]]
    found = whole(features(3, queries, 512), searched)
    for group in groups:
        assert (found[:, group] == found[:, group[:1]]).all()


def test_photos_that_share_a_first_component_are_not_the_same():
    searched = np.eye(4, dtype=np.float32)[[1, 2, 3, 2]]
    np.testing.assert_array_equal(whole(np.eye(4, dtype=np.float32), searched), np.eye(4)[:, [1, 2, 3, 2]])


@pytest.mark.parametrize("at_once", [512, 5, 1])
def test_one_row_as_in_its_block(at_once, monkeypatch):
    monkeypatch.setattr(module, "QUERIES_AT_ONCE", at_once)
    asked, searched = features(4, 13, 512), features(5, 301, 512)
    blocks = whole(asked, searched)
    for query in range(13):
        np.testing.assert_array_equal(similarity_row(asked, searched, query), blocks[query])


def test_given_similarities_in_blocks():
    similarity = features(6, 1100, 3)
    np.testing.assert_array_equal(np.concatenate([block for _, block in given_blocks(similarity)]), similarity)
    similarity[1050, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        list(given_blocks(similarity))
