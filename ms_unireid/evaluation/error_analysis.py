"""Error analysis: every query's rank, the worst queries as pictures, R1 by caption length and sketch style."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ms_unireid.data.evaluation_sets import EvaluationSet
from ms_unireid.evaluation.evaluator import format_table
from ms_unireid.evaluation.figures import draw_queries
from ms_unireid.evaluation.metrics import Gallery, Queries, QueryScores, score_queries
from ms_unireid.evaluation.queries import (
    NO_INDEX,
    SplitFeatures,
    TaskQueries,
    make_queries,
    queries_and_gallery,
    tasks_of,
)
from ms_unireid.evaluation.similarity import similarity_blocks
from ms_unireid.files import write_text
from ms_unireid.modalities import TEXT, modalities_of, symbol

COLUMNS = (
    "task", "query", "person", "caption", "sketch", "first_rank", "AP", "INP", "matches", "first_result",
    "first_result_person",
)  # fmt: skip
GROUP_TITLES = ("task", "by", "group", "queries", "R1", "mAP")
# Largest number of words in each group of captions.
LENGTHS = (10, 20, 30, 40)


def analyse_errors(
    feats: SplitFeatures, data: EvaluationSet, folder: Path, worst: int = 8, tasks: Sequence[str] | None = None
) -> None:
    """Write queries.csv, groups.md and worst_TASK.png to a folder, for `tasks` as `tasks_of` takes them.

    A query's source photo is left out. The pictures show the `worst` queries of each task: those whose first match
    comes last. Of all tasks of a data set that gives its queries, which are many, they show the first of one, of two,
    of three and of more modalities. Errors as in `draw_lists`.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    groups = []
    chosen = tasks_of(feats, tasks)
    few = {len(modalities_of(task)): task for task in reversed(chosen)}.values()
    drawn = few if feats.given and tasks is None else chosen
    for task in chosen:
        made = make_queries(task, feats)
        queries, gallery = queries_and_gallery(made, feats, "exclude_source_photo")
        scores = score_queries(queries, gallery)
        writer.writerows(_records(task, made, scores, _first_results(queries, gallery), data))
        groups += _groups(task, made, scores, data)
        if task in drawn:
            last = [(task, int(query)) for query in np.lexsort((scores.AP, -scores.first_rank))[:worst]]
            draw_queries(feats, data, last, folder / f"worst_{task}.png", f"Worst {symbol(task)}")
    write_text(folder / "queries.csv", file.getvalue())
    write_text(folder / "groups.md", format_table(GROUP_TITLES, groups, 3) + "\n")


def _first_results(queries: Queries, gallery: Gallery) -> np.ndarray:
    """Return each query's first result (Q,)."""
    found = np.empty(len(queries.feats), int)
    for rows, block in similarity_blocks(queries.feats, gallery.feats):
        sources = queries.source_photos[rows]
        made_from_photo = np.flatnonzero(sources != NO_INDEX)
        block[made_from_photo, sources[made_from_photo]] = -np.inf
        found[rows] = block.argmax(axis=1)
    return found


def _records(
    task: str, queries: TaskQueries, scores: QueryScores, first: np.ndarray, data: EvaluationSet
) -> Iterator[list[Any]]:
    for query, photo in enumerate(first):
        caption, sketch = queries.captions[query], queries.sketches[query]
        yield [
            task,
            query,
            queries.person_ids[query],
            "" if caption == NO_INDEX else " ".join(data.captions[caption].split()),
            "" if sketch == NO_INDEX else data.sketches[sketch],
            scores.first_rank[query],
            scores.AP[query],
            scores.INP[query],
            scores.matches[query],
            data.photos[photo],
            data.person_ids[photo],
        ]


def _groups(task: str, queries: TaskQueries, scores: QueryScores, data: EvaluationSet) -> list[list[str]]:
    """Return the rows of groups.md: R1 and mAP in percent over each group's queries with a match."""
    kinds = {}
    if TEXT in modalities_of(task):
        words = np.array([len(data.captions[caption].split()) for caption in queries.captions])
        kinds["words of the caption"] = [_length(count) for count in words]
    if "sketch" in modalities_of(task):
        kinds["style of the sketch"] = [data.styles[sketch] or "unknown" for sketch in queries.sketches]
    valid, found = scores.matches > 0, []
    for kind, names in kinds.items():
        for name in sorted(set(names)):
            chosen = valid & (np.array(names) == name)
            if chosen.any():
                first, precision = 100 * (scores.first_rank[chosen] == 1).mean(), 100 * scores.AP[chosen].mean()
                numbers = [str(chosen.sum()), f"{first:.2f}", f"{precision:.2f}"]
                found.append([symbol(task), kind, name, *numbers])
    return found


def _length(words: int) -> str:
    edges = [1, *(edge + 1 for edge in LENGTHS)]
    for low, high in zip(edges, LENGTHS, strict=False):
        if words <= high:
            return f"{low:02d}-{high:02d}"
    return f"{edges[-1]} or more"
