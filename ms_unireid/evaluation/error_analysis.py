"""Where a checkpoint errs: every query's rank, the worst as pictures, R1 by caption length and sketch style."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ms_unireid.data.evaluation_sets import EvaluationSet
from ms_unireid.evaluation.figures import draw_queries
from ms_unireid.evaluation.metrics import Gallery, Queries, QueryScores, score_queries
from ms_unireid.evaluation.protocols import tasks_of
from ms_unireid.evaluation.queries import (
    NO_INDEX,
    TASK_SYMBOLS,
    SplitFeatures,
    TaskQueries,
    make_queries,
    queries_and_gallery,
)
from ms_unireid.evaluation.similarity import similarity_blocks
from ms_unireid.files import write_text

COLUMNS = (
    "task", "query", "person", "caption", "sketch", "first_rank", "AP", "INP", "matches", "first_result",
    "first_result_person",
)  # fmt: skip
# Words of a caption, up to and including.
LENGTHS = (10, 20, 30, 40)


def analyse_errors(feats: SplitFeatures, data: EvaluationSet, folder: Path, worst: int = 8) -> None:
    """Write queries.csv, groups.md and worst_TASK.png, without the photo behind each query.

    Args:
        feats: Features of the split.
        data: What they are of.
        folder: Where.
        worst: Queries in each picture, those whose first match is farthest down.

    Raises:
        DataError: If a picture cannot be read.
        UserError: If a file cannot be written.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    groups = []
    for task in tasks_of(feats):
        task_queries = make_queries(task, feats)
        queries, gallery = queries_and_gallery(task_queries, feats, "exclude_source_photo")
        scores = score_queries(queries, gallery)
        writer.writerows(_records(task, task_queries, scores, _first_results(queries, gallery), data))
        groups += _groups(task, task_queries, scores, data)
        last = np.lexsort((scores.AP, -scores.first_rank))[:worst]
        draw_queries(
            feats, data, [(task, int(q)) for q in last], folder / f"worst_{task}.png", f"Worst {TASK_SYMBOLS[task]}"
        )
    write_text(folder / "queries.csv", file.getvalue())
    write_text(folder / "groups.md", _groups_markdown(groups))


def _first_results(queries: Queries, gallery: Gallery) -> np.ndarray:
    """Return the photo that each query finds first (Q,)."""
    found = np.empty(len(queries.feats), int)
    for rows, block in similarity_blocks(queries.feats, gallery.feats):
        sources = queries.source_photos[rows]
        asked = np.flatnonzero(sources != NO_INDEX)
        block[asked, sources[asked]] = -np.inf
        found[rows] = block.argmax(axis=1)
    return found


def _records(
    task: str, task_queries: TaskQueries, scores: QueryScores, first: np.ndarray, data: EvaluationSet
) -> Iterator[list[Any]]:
    for query, photo in enumerate(first):
        caption, sketch = task_queries.captions[query], task_queries.sketches[query]
        yield [
            task,
            query,
            task_queries.person_ids[query],
            "" if caption == NO_INDEX else " ".join(data.captions[caption].split()),
            "" if sketch == NO_INDEX else data.sketches[sketch],
            scores.first_rank[query],
            scores.AP[query],
            scores.INP[query],
            scores.matches[query],
            data.photos[photo],
            data.person_ids[photo],
        ]


def _groups(task: str, task_queries: TaskQueries, scores: QueryScores, data: EvaluationSet) -> list[dict[str, Any]]:
    """Return R1 and mAP, in percent, of the queries in each group that has a match."""
    kinds = {}
    if task != "sketch":
        words = np.array([len(data.captions[caption].split()) for caption in task_queries.captions])
        kinds["words of the caption"] = [_length(count) for count in words]
    if task != "text":
        kinds["style of the sketch"] = [data.styles[sketch] or "unknown" for sketch in task_queries.sketches]
    valid, found = scores.matches > 0, []
    for kind, names in kinds.items():
        for name in sorted(set(names)):
            chosen = valid & (np.array(names) == name)
            if chosen.any():
                first, precision = 100 * (scores.first_rank[chosen] == 1).mean(), 100 * scores.AP[chosen].mean()
                found.append(
                    {"task": task, "kind": kind, "group": name, "queries": chosen.sum(), "R1": first, "mAP": precision}
                )
    return found


def _length(words: int) -> str:
    edges = [1, *(edge + 1 for edge in LENGTHS)]
    for low, high in zip(edges, LENGTHS, strict=False):
        if words <= high:
            return f"{low:02d}-{high:02d}"
    return f"{edges[-1]} or more"


def _groups_markdown(groups: list[dict[str, Any]]) -> str:
    lines = ["| task | by | group | queries | R1 | mAP |", "| --- | --- | --- | ---: | ---: | ---: |"]
    for g in groups:
        cells = (TASK_SYMBOLS[g["task"]], g["kind"], g["group"], g["queries"], f"{g['R1']:.2f}", f"{g['mAP']:.2f}")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"
