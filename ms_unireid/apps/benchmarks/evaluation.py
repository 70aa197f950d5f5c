"""Scores from features of the paper's sizes, compared with the authors' loop over queries.

python tools/benchmark.py evaluation --sizes cuhk rstp icfg --rounds 5 --json evaluation.json
"""

import argparse
import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ms_unireid.apps.arguments import at_least
from ms_unireid.apps.benchmarks.runs import MIB, Run, alone, figure, in_turns, measured, ratio, spread
from ms_unireid.evaluation.metrics import Gallery, Queries, QueryScores, average, score_queries
from ms_unireid.evaluation.similarity import QUERIES_AT_ONCE, similarity_blocks
from ms_unireid.runtime import describe

DIM = 512
RULES = ("full_gallery", "exclude_source_photo")
# Above this number of similarities the loops score only one block of queries.
LOOPED_SIMILARITIES = 10**8
BASELINES = {
    "loop": "the authors' loop: full sort, then for each query a mask, running hits and one division per photo",
    "array_loop": "the same loop with each query's divisions as one array operation",
}


@dataclass(frozen=True)
class Size:
    """Numbers of captions, photos and persons of a test split."""

    queries: int
    photos: int
    persons: int


SIZES = {
    "cuhk": Size(queries=6156, photos=3074, persons=1000),
    "rstp": Size(queries=2000, photos=1000, persons=200),
    "icfg": Size(queries=19848, photos=19848, persons=1000),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sub-command."""
    parser.add_argument("--sizes", nargs="+", choices=tuple(SIZES), default=["cuhk", "rstp", "icfg"])
    parser.add_argument("--rounds", type=at_least(1), default=5)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure every size under both gallery rules."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.sizes:
            file = Path(folder) / f"{name}.npz"
            np.savez(file, **make_features(SIZES[name]))
            rows += [_measure_one(name, rule, file, options.rounds) for rule in RULES]
            file.unlink()
    return {
        "what": f"R1, R5, R10, mAP, mINP and per-query scores from features of dimension {DIM}",
        "baselines": BASELINES,
        "rounds": options.rounds,
        "rows": rows,
        "machine": describe("CPU"),
    }


def to_text(result: dict[str, Any]) -> str:
    """Format the measurements as text."""
    lines = [f"{result['what']}; {result['rounds']} rounds, median [min..max]"]
    for row in result["rows"]:
        sample = "" if row["looped"] == row["queries"] else f", the loops' from {row['looped']} of the queries"
        lines += [f"{row['size']} {row['rule']}: {row['queries']} x {row['photos']}, R1 {row['R1']:.1f}{sample}"]
        for name in BASELINES:
            times, cpu = (spread(row["times_as_fast"][name][kind]) for kind in ("seconds", "cpu_seconds"))
            lines.append(f"  times as fast as the {name}: {times}, in CPU time {cpu}")
        seconds = ", ".join(f"{name} {spread(values)}" for name, values in row["seconds"].items())
        memory = ", ".join(f"{name} {values['median'] / MIB:.0f}" for name, values in row["extra_bytes"].items())
        lines += [f"  seconds: {seconds}", f"  MiB beyond the features: {memory}"]
        lines += [f"  largest difference from the literal order, any query and score: {row['largest_difference']:.1e}"]
    return "\n".join(lines)


def make_features(size: Size) -> dict[str, np.ndarray]:
    """Draw features of photos, several per person, and of queries, each nearest to its source photo."""
    rng = np.random.default_rng(1)
    person_ids = np.sort(rng.integers(0, size.persons, size.photos))
    sources = np.arange(size.queries) * size.photos // size.queries
    persons, own, noise = (
        rng.standard_normal((rows, DIM), np.float32) for rows in (size.persons, size.photos, size.queries)
    )
    return {
        "photos": persons[person_ids] + own,
        "queries": persons[person_ids[sources]] + 0.2 * own[sources] + 6 * noise,
        "person_ids": person_ids,
        "sources": sources,
    }


def loop_scores(
    similarity: np.ndarray,
    queries: Queries,
    gallery: Gallery,
    running_precision: Callable[[np.ndarray], np.ndarray],
    kind: str | None = None,
) -> QueryScores:
    """Score query by query from the sorted gallery, as the authors' evaluation does.

    Args:
        similarity: (Q, G).
        queries: Their persons and source photos.
        gallery: Its persons.
        running_precision: Divides the hits up to each rank by the rank, (G,) int to (G,) float.
        kind: Of `np.argsort`; the authors' code uses its default, which does not define the order of ties.
    """
    order = np.argsort(-similarity, axis=1, kind=kind)
    matches = gallery.person_ids[order] == queries.person_ids[:, None]
    rows = []
    for query, (photos, hits) in enumerate(zip(order, matches, strict=True)):
        if queries.source_photos is not None:
            hits = hits[photos != queries.source_photos[query]]
        if not hits.any():
            rows.append((0, 0.0, 0.0, 0.0, 0))
            continue
        running = hits.cumsum()
        ranks = np.flatnonzero(hits) + 1
        precision = (running_precision(running) * hits).sum() / running[-1]
        rows.append((ranks[0], precision, running[-1] / ranks[-1], running[-1] / len(hits), running[-1]))
    return QueryScores(*map(np.array, zip(*rows, strict=True)))


def one_by_one(running: np.ndarray) -> np.ndarray:
    """Divide hits by ranks, one photo at a time."""
    return np.asarray([hits / (index + 1.0) for index, hits in enumerate(running)])


def at_once(running: np.ndarray) -> np.ndarray:
    """Divide hits by ranks in one array operation."""
    return running / np.arange(1, len(running) + 1)


def _measure_one(name: str, rule: str, file: Path, rounds: int) -> dict[str, Any]:
    ours, literal = file.with_suffix(".ours.npz"), file.with_suffix(".literal.npz")
    alone("evaluate-literal", file, rule, literal)
    jobs = {"ours": ("evaluate-ours", file, rule, ours)}
    jobs |= {baseline: (f"evaluate-{baseline}", file, rule) for baseline in BASELINES}
    runs = in_turns(jobs, rounds, f"{name} {rule}")
    size, looped = SIZES[name], _looped(SIZES[name].queries, SIZES[name].photos)
    share = len(range(*looped.indices(size.queries))) / size.queries
    for run in (run for baseline in BASELINES for run in runs[baseline]):
        run.update({kind: run[kind] / share for kind in ("seconds", "cpu_seconds")})
    return {
        "size": name,
        "rule": rule,
        **dataclasses.asdict(size),
        "looped": round(share * size.queries),
        "R1": runs["ours"][0]["R1"],
        "times_as_fast": {baseline: _times_as_fast(runs["ours"], runs[baseline]) for baseline in BASELINES},
        **{
            kind: {job: figure(found, kind) for job, found in runs.items()}
            for kind in ("seconds", "cpu_seconds", "extra_bytes")
        },
        "largest_difference": _largest_difference(ours, literal, looped),
    }


def _times_as_fast(ours: Sequence[Run], theirs: Sequence[Run]) -> dict[str, dict[str, float]]:
    return {kind: ratio(theirs, ours, kind) for kind in ("seconds", "cpu_seconds")}


def _largest_difference(ours: Path, literal: Path, looped: slice) -> float:
    with np.load(ours) as found, np.load(literal) as expected:
        return max(float(np.abs(found[name][looped] - expected[name]).max()) for name in expected.files)


def _looped(queries: int, photos: int) -> slice:
    """Return the queries that the loops score: all, or one block of `similarity_blocks` in the middle."""
    if queries * photos <= LOOPED_SIMILARITIES:
        return slice(0, queries)
    start = queries // 2 // QUERIES_AT_ONCE * QUERIES_AT_ONCE
    return slice(start, start + QUERIES_AT_ONCE)


def _load(file: str, rule: str) -> tuple[Queries, Gallery]:
    with np.load(file) as saved:
        feats = {name: saved[name] for name in saved.files}
    sources = feats["sources"] if rule == "exclude_source_photo" else None
    queries = Queries(feats["queries"], feats["person_ids"][feats["sources"]], sources)
    return queries, Gallery(feats["photos"], feats["person_ids"])


def _loop(
    running_precision: Callable[[np.ndarray], np.ndarray], kind: str | None = None
) -> Callable[[Queries, Gallery], QueryScores]:
    """Return a scorer of features: similarities as in this project, then the loop."""

    def score(queries: Queries, gallery: Gallery) -> QueryScores:
        rows = _looped(len(queries.feats), len(gallery.feats))
        sources = None if queries.source_photos is None else queries.source_photos[rows]
        queries = Queries(queries.feats[rows], queries.person_ids[rows], sources)
        blocks = [block.copy() for _, block in similarity_blocks(queries.feats, gallery.feats)]
        return loop_scores(np.concatenate(blocks), queries, gallery, running_precision, kind)

    return score


def _job(scorer: Callable[[Queries, Gallery], QueryScores]) -> Callable[..., Run]:
    """Return a job that scores saved features under a rule and can save the scores."""

    def run(file: str, rule: str, result: str = "") -> Run:
        queries, gallery = _load(file, rule)
        # Libraries start their threads at the first large product.
        scorer(Queries(queries.feats[:99], queries.person_ids[:99]), gallery)
        found: list[QueryScores] = []
        figures = measured(lambda: found.append(scorer(queries, gallery)))
        if result:
            np.savez(result, **dataclasses.asdict(found[0]))
        return {**figures, "R1": average(found[0]).R1}

    return run


JOBS = {
    "evaluate-ours": _job(score_queries),
    "evaluate-loop": _job(_loop(one_by_one)),
    "evaluate-array_loop": _job(_loop(at_once)),
    "evaluate-literal": _job(_loop(at_once, kind="stable")),
}
