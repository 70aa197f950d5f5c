"""Ranked lists as pictures, on constructed features whose hits and misses are known."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ms_unireid.data.annotations import Annotation
from ms_unireid.data.evaluation_sets import EvaluationSet, from_annotations
from ms_unireid.errors import DataError, UserError
from ms_unireid.evaluation import figures
from ms_unireid.evaluation.figures import (
    FRAME,
    GAP,
    HIT,
    MISS,
    QUERY_WIDTH,
    TITLE,
    draw_missing_modality,
    draw_ranked_lists,
    rank_query,
)
from ms_unireid.evaluation.metrics import RetrievalMetrics
from ms_unireid.evaluation.queries import SplitFeatures, make_queries

PERSONS = (1, 1, 2, 2, 3, 3)
WHITE = (255, 255, 255)
CELL_WIDTH, CELL_HEIGHT = figures.CELL[0] + 2 * FRAME, figures.CELL[1] + 2 * FRAME
ROW = CELL_HEIGHT + figures.LABEL + GAP


def queries(*orders: tuple[int, ...]) -> np.ndarray:
    """Make one query for each order: it ranks the one-hot gallery that way; other photos get similarity 0."""
    feats = np.zeros((len(orders), len(PERSONS)), np.float32)
    for row, order in enumerate(orders):
        feats[row, list(order)] = np.arange(len(order), 0, -1)
    return feats


def put(path: Path, colour: tuple[int, int, int]) -> Path:
    Image.new("RGB", (20, 50), colour).save(path)
    return path


def rank_for_photo(feats: SplitFeatures, photo: int, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Rank for the first query made from a photo."""
    task_queries = make_queries(task, feats)
    return rank_query(feats, task_queries, int(np.flatnonzero(task_queries.photos == photo)[0]))


@pytest.fixture
def data(tmp_path) -> EvaluationSet:
    tmp_path = tmp_path / "pictures"
    tmp_path.mkdir()
    made = [
        Annotation(
            person,
            put(tmp_path / f"photo{i}.png", (0, 0, 40 * i)),
            {"sketch": (put(tmp_path / f"sketch{i}.png", (200, 200, 200)),)},
            (f"person {person} in blue " * 12, "another caption"),
        )
        for i, person in enumerate(PERSONS)
    ]
    return from_annotations(made)


@pytest.fixture
def feats() -> SplitFeatures:
    """Text finds the person's other photo at rank 1, the sketch at rank 2; each is nearest to its source photo."""
    other = [i ^ 1 for i in range(6)]
    far = [(i + 3) % 6 if (i + 3) % 6 != i ^ 1 else (i + 2) % 6 for i in range(6)]
    text = queries(*((i, other[i], far[i]) for i in range(6)))
    return SplitFeatures(
        photo=3 * np.eye(6, dtype=np.float32),
        sketch=queries(*((i, far[i], other[i]) for i in range(6))),
        text=np.repeat(text, 2, axis=0) * np.tile([[1.0], [-1.0]], (6, 1)),  # the second caption asks the opposite
        person_ids=np.array(PERSONS),
        caption_photos=np.repeat(np.arange(6), 2),
    )


def frame(sheet: Image.Image, row: int, rank: int) -> tuple[int, int, int]:
    left, top = QUERY_WIDTH + rank * (CELL_WIDTH + GAP), TITLE + row * ROW
    corners = [(left, top), (left + CELL_WIDTH - 1, top), (left, top + CELL_HEIGHT - 1)]
    (colour,) = {sheet.getpixel(corner) for corner in corners}
    return colour


def inside(sheet: Image.Image, row: int, rank: int) -> tuple[int, int, int]:
    left, top = QUERY_WIDTH + rank * (CELL_WIDTH + GAP), TITLE + row * ROW
    return sheet.getpixel((left + CELL_WIDTH // 2, top + CELL_HEIGHT // 2))


def draw(feats, data, path: Path, **options) -> Image.Image:
    draw_ranked_lists(feats, data, path, **options)
    with Image.open(path) as sheet:
        assert sheet.format == "PNG"
        return sheet.convert("RGB")


@pytest.mark.parametrize("photo", range(6))
@pytest.mark.parametrize("task", ["text", "sketch", "fusion"])
def test_the_source_photo_is_never_in_its_own_list(feats, photo, task):
    order, scores = rank_for_photo(feats, photo, task)
    assert sorted([*order.tolist(), photo]) == list(range(6))
    assert (np.diff(scores) <= 0).all() and len(scores) == 5


def test_ranks_and_similarities(feats):
    order, scores = rank_for_photo(feats, 0, "text")
    assert order[:2].tolist() == [1, 3]
    assert scores[:3] == pytest.approx(np.array([2, 1, 0]) / np.sqrt(14), abs=1e-6)
    assert rank_for_photo(feats, 0, "sketch")[0][:2].tolist() == [3, 1]
    order, scores = rank_for_photo(feats, 0, "fusion")
    assert set(order[:2].tolist()) == {1, 3} and scores[0] == pytest.approx(3 / np.sqrt(54), abs=1e-6)


def test_frames_distinguish_hits_and_misses(feats, data, tmp_path):
    sheet = draw(feats, data, tmp_path / "new" / "ranked.png", count=2, top_k=3)
    text, sketch, fusion, second_text = range(4)
    assert [frame(sheet, text, rank) for rank in range(3)] == [HIT, MISS, MISS]
    assert [frame(sheet, sketch, rank) for rank in range(3)] == [MISS, HIT, MISS]
    assert sorted(frame(sheet, fusion, rank) for rank in range(3)) == sorted([HIT, MISS, MISS])
    assert [frame(sheet, second_text, rank) for rank in range(3)] == [HIT, MISS, MISS]
    assert sheet.height == TITLE + 2 * 3 * ROW


def test_the_right_photos_are_shown(feats, data, tmp_path):
    sheet = draw(feats, data, tmp_path / "ranked.png", count=1, top_k=2)
    assert [inside(sheet, 0, rank) for rank in range(2)] == [(0, 0, 40), (0, 0, 120)]
    assert [inside(sheet, 1, rank) for rank in range(2)] == [(0, 0, 120), (0, 0, 40)]


def test_fewer_photos_than_columns(feats, data, tmp_path):
    sheet = draw(feats, data, tmp_path / "ranked.png", count=99, top_k=8)
    assert sheet.height == TITLE + 6 * 3 * ROW
    assert frame(sheet, 0, 4) == MISS
    assert all(inside(sheet, row, rank) == WHITE for row in range(18) for rank in (5, 6, 7))


def test_only_the_figure_is_left(feats, data, tmp_path):
    draw(feats, data, tmp_path / "out" / "ranked.png", count=1)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["ranked.png"]


def test_a_missing_photo_is_named_and_the_old_figure_stays(feats, data, tmp_path):
    (tmp_path / "ranked.png").write_bytes(b"old")
    data.photos[1].unlink()
    with pytest.raises(DataError, match=r"photo1\.png"):
        draw_ranked_lists(feats, data, tmp_path / "ranked.png")
    assert (tmp_path / "ranked.png").read_bytes() == b"old"


def test_a_place_that_cannot_be_written(feats, data, tmp_path):
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be written"):
        draw_ranked_lists(feats, data, tmp_path / "taken" / "ranked.png", count=1)


def test_the_curve_of_missing_modalities(tmp_path):
    def row_of_r1(r1: float) -> float:
        metrics = RetrievalMetrics(r1, 0, 0, 50, 50, 0, 1, 0)
        results = {("fusion", f"missing_modality {share}"): metrics for share in ("0%", "12.5%", "12.5% reranked")}
        draw_missing_modality(results, tmp_path / "curve.png")
        with Image.open(tmp_path / "curve.png") as picture:
            blue = np.asarray(picture).astype(int)
        rows, columns = np.nonzero(np.abs(blue - (31, 119, 180)).max(-1) < 10)
        return float(np.median(rows[columns < blue.shape[1] // 2]))

    assert row_of_r1(90) < row_of_r1(60) < row_of_r1(10)
