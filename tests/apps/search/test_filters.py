"""Filters against their literal meaning, photo by photo."""

import datetime
from pathlib import Path

import numpy as np
import pytest
from apps.search.index_factory import colour_of, put_photo, put_photos, update
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_unireid.apps.search.engines import exact
from ms_unireid.apps.search.engines.embedded import PhotoIndex
from ms_unireid.apps.search.engines.exact import exact_search
from ms_unireid.apps.search.filters import Filter
from ms_unireid.errors import QueryError
from ms_unireid.evaluation.similarity import normalize_rows

DAYS = ("2024-04-30", "2024-05-01", "2024-05-02", "2024-05-02T12:30", "2024-05-02T12:30:15", "2025-01-01")


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> PhotoIndex:
    """Make an index of two folders with sub-folders, in which some times and cameras are known."""
    folder = tmp_path_factory.mktemp("filters")
    names = [
        f"{place}/{camera}{time}{number:02}.png"
        for number, (place, camera, time) in enumerate(
            (place, camera, time)
            for place in ("one", "one/inner", "one/inner/most", "one_more", "two")
            for camera in ("x_c1_", "x_c02_", "")
            for time in ("20240501_000000_", "20240502_123015_", "20240502_123059_", "")
        )
    ]
    for number, name in enumerate(names):
        put_photo(folder / "photos" / name, colour_of(number))
    put_photos(folder / "others", range(100, 103))
    update(folder / "index", folder / "photos", folder / "others")
    return PhotoIndex(folder / "index")


def passes(index: PhotoIndex, row: int, where: Filter) -> bool:
    """Decide about one photo, with times as moments and folders as parents."""
    moment = index.taken(row) and datetime.datetime.fromisoformat(index.taken(row))
    first, last = (text and datetime.datetime.fromisoformat(text) for text in (where.after, where.before))
    if last:
        last += {10: datetime.timedelta(days=1), 16: datetime.timedelta(minutes=1)}.get(
            len(where.before), datetime.timedelta(seconds=1)
        )
    return (
        (not where.folders or any(Path(one) in index.path(row).parents for one in where.folders))
        and (not where.cameras or index.camera(row) in where.cameras)
        and (not where.persons or index.person(row) in where.persons)
        and (not first or bool(moment and moment >= first))
        and (not last or bool(moment and moment < last))
    )


@st.composite
def filters(draw, index: PhotoIndex) -> Filter:
    def some(names):
        return tuple(draw(st.lists(st.sampled_from([*names, "absent"]), max_size=3)))

    after, before = (draw(st.sampled_from(("", *DAYS))) for _ in range(2))
    if after and before and after > before:
        after, before = before, after
    return Filter(some(index.folders), some(index.cameras), some(index.persons), after, before)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_the_rows_that_pass_and_the_search_among_them(index, data):
    where = data.draw(filters(index))
    rows = index.passing(where)
    assert rows.tolist() == [row for row in range(index.count) if passes(index, row, where)]
    assert index.passing(where) is rows and not rows.flags.writeable
    assert bool(where) == (where != Filter())
    query, k = np.eye(1, index.dim, data.draw(st.integers(0, 3)), np.float32), data.draw(st.integers(1, 70))
    found, scores = exact_search(index.features, query, k, rows)
    every, all_scores = exact_search(index.features, query, index.count)
    kept = np.isin(every[0], rows)
    assert found[0].tolist() == every[0][kept][:k].tolist()
    np.testing.assert_allclose(scores[0], all_scores[0][kept][:k], atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("chunk", [8, 56, 1 << 15])
def test_search_among_some_rows_in_chunks(dtype, chunk, monkeypatch):
    monkeypatch.setattr(exact, "SEARCH_ROWS", chunk)
    rng = np.random.default_rng(1)
    feats = normalize_rows(rng.standard_normal((300, 32), np.float32)).astype(dtype)
    feats[100:140] = feats[7]  # equal ones come in the order of their rows
    queries = np.concatenate([rng.standard_normal((40, 32), np.float32), feats[7:8].astype(np.float32)])
    for count in (0, 1, 50, 300):
        rows = np.sort(rng.choice(300, count, replace=False))
        found, scores = exact_search(feats, queries, 20, rows)
        alone, alone_scores = exact_search(feats[rows], queries, 20)
        assert (found == rows[alone]).all() and found.shape == (41, min(20, count))
        np.testing.assert_allclose(scores, alone_scores, atol=1e-6)


def test_what_the_index_has(index):
    assert index.cameras == {"02": 20, "1": 20} and index.persons == {} and list(index.cameras) == ["02", "1"]
    assert index.times == ("2024-05-01T00:00:00", "2024-05-02T12:30:59")
    top = index.path(0).parents[1]
    assert index.folders == dict(sorted(index.folders.items())) and index.folders[str(top)] == 60
    assert index.folders[str(top / "one")] == 36 and index.folders[str(top / "one" / "inner" / "most")] == 12
    for kind in ("folders", "cameras"):
        for name, count in getattr(index, kind).items():
            assert len(index.passing(Filter(**{kind: (name,)}))) == count


def test_a_row_by_its_path(index, monkeypatch):
    for row in (0, 17, index.count - 1):
        assert index.row(index.path(row)) == row
    monkeypatch.chdir(index.path(0).parent)
    assert index.row(Path(index.path(0).name)) == index.row(f"../one/{index.path(0).name}") == 0
    for path in ("absent.png", "/", "", "x\0y"):
        with pytest.raises(QueryError, match="is not among the 63 photos"):
            index.row(Path(path))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"after": "yesterday"}, "after 'yesterday': expected a date such as"),
        ({"after": "2023-02-29"}, "after '2023-02-29'"),
        ({"before": "2024-05-01T24:00"}, "before"),
        ({"before": "2024-05-01T12"}, "before"),
        ({"before": "2024-05-01T12:30:15Z"}, "before"),
        ({"after": ["2024-05-01"]}, "expected a date"),
        ({"after": 20240501}, "expected a date"),
        ({"after": "٢٠٢٤-05-01"}, "expected a date"),
        ({"after": "2024-05-02", "before": "2024-05-01"}, "no time is between"),
    ],
)
def test_wrong_times_are_refused(given, message):
    with pytest.raises(QueryError, match=message):
        Filter(**given)


def test_a_day_is_between_itself():
    assert Filter(after="2024-05-01", before="2024-05-01").times == ("2024-05-01T00:00:00", "2024-05-01T23:59:59")
    assert Filter(after="2024-05-01 12:30", before="2024-05-01T12:30").times[1] == "2024-05-01T12:30:59"
