"""Open-set identification: how often somebody who is there is found, against alarms for somebody who is not.

A threshold on the cosine separates both. The false-alarm rate (FAR) is the share of queries for absent persons that
some photo is above the threshold for; the detection and identification rate (DIR) at rank k is the share of queries
for present persons whose first match is above it and among the first k results (Phillips, Grother and Micheals,
Handbook of Face Recognition, 2011; for re-identification Liao et al., 2014).

Leave one person out: every query counts once as it is, and once with all photos of its person taken out of the gallery.
No split has to be drawn, every query serves both rates, and the gallery keeps its size, on which false alarms depend.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ms_unireid.data.evaluation_sets import EvaluationSet
from ms_unireid.errors import ConfigError
from ms_unireid.evaluation.evaluator import LEADING, format_table
from ms_unireid.evaluation.metrics import Gallery, Queries, score_queries
from ms_unireid.evaluation.queries import SplitFeatures, make_queries, queries_and_gallery, tasks_of
from ms_unireid.evaluation.similarity import similarity_blocks
from ms_unireid.modalities import PHOTO, TEXT, symbol

RATES = (0.01, 0.05, 0.1)
RANKS = (1, 5, 10)
_TITLES = ("task", "FAR", "threshold", *(f"DIR{k}" for k in RANKS), "queries", "no match", "photos")
_NEAREST = 48  # other persons of a query that are kept
_SMALLER, _HALVINGS = 1 / 8, 3  # the part of the gallery that the growth of a threshold is measured against


class _Scores(NamedTuple):
    first_rank: np.ndarray  # (Q,) of the first match; 0 without one
    own: np.ndarray  # (Q,) cosine of the best match
    others: np.ndarray  # (Q, J) cosines of the best photos of the nearest other persons, largest first
    photos: int  # of other persons, mean


def check_open_set(data: EvaluationSet | SplitFeatures, rates: Sequence[float] = ()) -> None:
    """Check that there are two persons, and queries enough for each rate; ConfigError if not."""
    persons = len(np.unique(data.person_ids))
    if persons < 2:
        raise ConfigError(f"--open-set: the split has {persons} person; it needs two, so that somebody can be absent")
    asking = (data.sketch_persons, data.caption_persons, *(one.persons for one in data.others.values()))
    fewest = min(len(owners) for owners in asking if len(owners))
    for rate in rates:
        if _alarms(rate, fewest) < 1:
            raise ConfigError(
                f"--false-alarms {rate:g}: the split has only {fewest:,} queries of a task; give at least "
                f"{1 / fewest:.2g}, or a larger split"
            )


def evaluate_open_set(
    feats: SplitFeatures, rates: Sequence[float] = RATES, tasks: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Evaluate the tasks of `tasks_of` at every false-alarm rate, and photos as queries, as a search may have them.

    Where queries belong to photos, a query's own photo is left out. Each row has the task, the rate, the threshold that
    a cosine must exceed and its rise per doubling of the gallery (`per_doubling`), DIR in percent at `RANKS`, and the
    numbers of `queries`, of those without a match, and of photos. Thresholds and DIR are None where there are too few
    queries for a rate, DIR also where none has a match. A feature that is not finite raises a ValueError.
    """
    rows = []
    for task, queries, gallery in _tasks(feats, tasks):
        scores = _score(queries, gallery)
        rows += [_row(task, scores, rate) for rate in rates]
    return rows


def to_table(rows: Sequence[dict[str, Any]], table_format: str = "plain") -> str:
    """Lay out rows of `evaluate_open_set`, which may have the keys of `LEADING` as well, in a format of `tabulate`."""
    leading = [key for key in LEADING if key in rows[0]]
    titles = [*(LEADING[key] for key in leading), *_TITLES]
    return format_table(
        titles, [[*(row[key] for key in leading), *_cells(row)] for row in rows], len(leading) + 1, table_format
    )


def thresholds_of(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what `Thresholds.tasks` keeps of the rows of one rate."""
    return {
        row["task"]: {
            **{key: row[key] for key in ("threshold", "per_doubling", "photos")},
            "queries": row["queries"] + row["queries_without_match"],
        }
        for row in rows
        if row["threshold"] is not None
    }


def _cells(row: dict[str, Any]) -> list[str]:
    numbers = [(row["threshold"], ".4f"), *((row[f"DIR{k}"], ".2f") for k in RANKS)]
    formatted = ("-" if number is None else format(number, form) for number, form in numbers)
    counts = (str(row[key]) for key in ("queries", "queries_without_match", "photos"))
    return [symbol(row["task"]), f"{100 * row['false_alarms']:g}%", *formatted, *counts]


def _tasks(feats: SplitFeatures, tasks: Sequence[str] | None) -> Iterator[tuple[str, Queries, Gallery]]:
    rule = "full_gallery" if feats.caption_photos is None else "exclude_source_photo"
    for task in tasks_of(feats, tasks):
        yield task, *queries_and_gallery(make_queries(task, feats), feats, rule)
    asking = [feats.part(name).persons for name in (TEXT, "sketch", *feats.others)]
    asked = np.flatnonzero(np.isin(feats.person_ids, np.concatenate(asking)))  # distractors are nobody's photos
    yield PHOTO, Queries(feats.photo[asked], feats.person_ids[asked], asked), Gallery(feats.photo, feats.person_ids)


def _score(queries: Queries, gallery: Gallery) -> _Scores:
    ranks = score_queries(queries, gallery).first_rank
    order = np.argsort(gallery.person_ids, kind="stable")
    persons, starts = np.unique(gallery.person_ids[order], return_index=True)
    nearest = min(_NEAREST, len(persons) - 1)
    own, others = np.empty(len(ranks), np.float32), np.empty((len(ranks), nearest), np.float32)
    for rows, block in similarity_blocks(queries.feats, gallery.feats):
        asked = queries.person_ids[rows, None]
        best = np.maximum.reduceat(block[:, order], starts, axis=1)  # (B, persons)
        best[persons == asked] = -np.inf
        others[rows] = -np.sort(np.partition(-best, nearest - 1, axis=1)[:, :nearest], axis=1)
        block[gallery.person_ids != asked] = -np.inf
        if queries.source_photos is not None:
            given = np.flatnonzero(queries.source_photos[rows] >= 0)
            block[given, queries.source_photos[rows][given]] = -np.inf
        own[rows] = block.max(axis=1)
    sizes = np.append(starts[1:], len(order)) - starts
    there = np.isin(queries.person_ids, persons)
    left_out = sizes[np.searchsorted(persons, queries.person_ids[there])].sum() / max(len(there), 1)
    return _Scores(ranks, own, others, round(len(order) - left_out))


def _row(task: str, scores: _Scores, rate: float) -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(("threshold", "per_doubling", *(f"DIR{k}" for k in RANKS)))
    matched = scores.first_rank > 0
    if _alarms(rate, len(matched)) >= 1:
        limit = _threshold(scores.others, rate)
        rise = (limit - _threshold(scores.others, rate, _SMALLER)) / _HALVINGS
        found |= {"threshold": limit, "per_doubling": max(rise, 0.0)}
        if matched.any():
            ranks = scores.first_rank[matched & (scores.own > limit)]
            found |= {f"DIR{k}": 100 * float((ranks <= k).sum() / matched.sum()) for k in RANKS}
    counts = {"queries": int(matched.sum()), "queries_without_match": int((~matched).sum()), "photos": scores.photos}
    return {"task": task, "false_alarms": rate, **found, **counts}


def _threshold(others: np.ndarray, rate: float, part: float = 1.0) -> float:
    """Return the smallest score that at most a share of the queries has another person above.

    With `part`, for a gallery of only this part of the persons, as the mean over all ways to choose them: a query has
    its j-th nearest person as its nearest one with probability part (1 - part)^(j - 1).
    """
    weights = np.broadcast_to(part * (1 - part) ** np.arange(others.shape[1]), others.shape)
    order = np.argsort(-others, axis=None)
    above = np.cumsum(weights.ravel()[order])  # queries that the score, or a better one, is an alarm for
    place = np.searchsorted(above, _alarms(rate, len(others)), side="right")
    return float(others.ravel()[order[min(place, others.size - 1)]])


def _alarms(rate: float, queries: int) -> float:
    return rate * queries + 1e-6  # 0.29 of 100 are 29
