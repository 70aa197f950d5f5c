"""Evaluation protocols by name: their queries, their galleries and their averages."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ms_unireid.config import GALLERY_RULES, PROTOCOLS, TASKS, EvalConfig
from ms_unireid.data import orbench
from ms_unireid.data.evaluation_sets import EvaluationSet
from ms_unireid.errors import ConfigError
from ms_unireid.evaluation.metrics import (
    Gallery,
    Queries,
    RetrievalMetrics,
    average,
    evaluate_retrieval,
    score_similarity,
)
from ms_unireid.evaluation.queries import (
    NO_INDEX,
    SplitFeatures,
    TaskQueries,
    make_queries,
    queries_and_gallery,
    tasks_of,
)
from ms_unireid.evaluation.reranking import rerank
from ms_unireid.modalities import MEAN, modalities_of

# (task, protocol) to metrics.
Results = dict[tuple[str, str], RetrievalMetrics]
# ((task, protocol), queries, gallery)
_Rows = Iterator[tuple[tuple[str, str], Queries, Gallery]]
_Score = Callable[[Queries, Gallery], RetrievalMetrics]

# The same queries lose a modality in every run, so that checkpoints can be compared.
MISSING_SEED = 1
# Table 2 excludes the source photo; Tables 3-5 search the full gallery by text.
PAPER_ROWS = (
    ("text", "exclude_source_photo"),
    ("sketch", "exclude_source_photo"),
    ("fusion", "exclude_source_photo"),
    ("text", "full_gallery"),
)


@dataclass(frozen=True)
class TrialMetrics(RetrievalMetrics):
    """Means over the trials with a query that has a match; the counts are sums."""

    trials: int  # their number
    deviation: dict[str, float]  # sample standard deviation of each metric; 0 for one trial


def evaluate_protocol(protocol: str, feats: SplitFeatures, settings: EvalConfig | None = None) -> Results:
    """Evaluate every task that the split has queries for.

    `protocol` is one of `PROTOCOLS`, `paper` or `all`. `paper` stands for the rows of Tables 2-5; for ten trials if the
    data set has trials; for `orbench` if it gives its queries; else for `full_gallery` and `multi_query` if sketches
    belong to persons. `all` stands for every
    gallery rule that the data set allows, and its trials. `settings` are for `multi_query` and `missing_modality`.

    A protocol that the data set does not allow raises a ConfigError, a feature that is not finite a ValueError.
    """
    return _evaluate(protocol, feats, settings, evaluate_retrieval)


def evaluate_reranked(protocol: str, feats: SplitFeatures, settings: EvalConfig | None = None) -> Results:
    """Evaluate as `evaluate_protocol` does, with k-reciprocal re-ranking; protocol names end in `reranked`.

    Neighbours are searched among the queries and the gallery of one row, or of one trial.
    """
    results = _evaluate(protocol, feats, settings, _score_reranked)
    return {(task, f"{name} reranked"): metrics for (task, name), metrics in results.items()}


def evaluate_row(task: str, protocol: str, feats: SplitFeatures) -> RetrievalMetrics:
    """Evaluate one task under one of `GALLERY_RULES`; ValueError for a feature that is not finite."""
    return evaluate_retrieval(*queries_and_gallery(make_queries(task, feats), feats, protocol))


def check_protocol(protocol: str, data: EvaluationSet | SplitFeatures) -> None:
    """Check that the data set, or its features, has what a protocol needs; the ConfigError names those possible."""
    if problem := _problem(protocol, data):
        possible = ["paper", "all", *(name for name in PROTOCOLS if not _problem(name, data))]
        raise ConfigError(f"protocol {protocol}: the data set {problem}; choose one of {', '.join(possible)}")


def _problem(protocol: str, data: EvaluationSet | SplitFeatures) -> str:
    """Return why a protocol is impossible, or an empty text."""
    if protocol == "camera_aware" and data.cameras is None:
        return "has no camera numbers"
    if protocol in ("exclude_source_photo", "camera_aware") and data.caption_photos is None:
        return "has no source photos"
    if protocol == "missing_modality" and not (len(data.caption_persons) and len(data.sketch_persons)):
        return "has no captions" if len(data.sketch_persons) else "has no sketches"
    if protocol == "ten_trials" and not data.trials:
        return "has no trials"
    if protocol == orbench.NAME and not data.given:
        return "does not give its queries"
    return ""


def _evaluate(protocol: str, feats: SplitFeatures, settings: EvalConfig | None, score: _Score) -> Results:
    check_protocol(protocol, feats)
    found, settings = {}, settings or EvalConfig()
    for name in _named(protocol, feats):
        if name == "ten_trials":
            found |= _ten_trials(feats, score, settings)
        elif name == orbench.NAME:
            found |= _orbench(feats, score, settings)
        else:
            rows = _ROWS[name](feats, settings)
            found |= {key: score(queries, gallery) for key, queries, gallery in rows}
    return found


def _named(protocol: str, feats: SplitFeatures) -> Sequence[str]:
    if protocol == "paper" and feats.given:
        return [orbench.NAME]
    if protocol == "paper" and feats.trials:
        return ["ten_trials"]
    if protocol == "paper" and feats.caption_photos is None:
        return ["full_gallery", "multi_query"]
    if protocol == "all":
        return [name for name in (*GALLERY_RULES, "ten_trials") if not _problem(name, feats)]
    return [protocol]


def _score_reranked(queries: Queries, gallery: Gallery) -> RetrievalMetrics:
    return average(score_similarity(rerank(queries.feats, gallery.feats), queries, gallery))


def _paper(feats: SplitFeatures, settings: EvalConfig) -> _Rows:
    tasks = tasks_of(feats, settings.tasks)
    further = [(task, "exclude_source_photo") for task in tasks if task not in TASKS]
    for task, protocol in [*(row for row in PAPER_ROWS if row[0] in tasks), *further]:
        yield (task, protocol), *queries_and_gallery(make_queries(task, feats), feats, protocol)


def _rule(protocol: str) -> Callable[[SplitFeatures, EvalConfig], _Rows]:
    def rows(feats: SplitFeatures, settings: EvalConfig) -> _Rows:
        for task in tasks_of(feats, settings.tasks):
            yield (task, protocol), *queries_and_gallery(make_queries(task, feats), feats, protocol)

    return rows


def _multi_query(feats: SplitFeatures, settings: EvalConfig) -> _Rows:
    """One query for each person: the mean feature of its captions, or of its sketches, or the sum of both means.

    Where captions and sketches belong to photos, a query takes those of the person's first `multi_query_photos` photos
    and removes these photos from the gallery.
    """
    by_photo = feats.caption_photos is not None
    sources = _first_photos(feats.person_ids, settings.multi_query_photos if by_photo else 0)
    # Source photos get camera 1, which every query removes from its person's photos.
    gallery = Gallery(feats.photo, feats.person_ids, sources.astype(int) if by_photo else None)
    for task, (means, persons) in _means(feats, sources, tasks_of(feats, settings.tasks)).items():
        cameras = np.ones_like(persons) if by_photo else None
        yield (task, "multi_query"), Queries(means, persons, cameras=cameras), gallery


def _means(feats: SplitFeatures, sources: np.ndarray, tasks: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return each task's queries (P, D), one for each person, and the persons (P,) in ascending order."""
    names = dict.fromkeys(name for task in tasks for name in modalities_of(task))
    means = {name: _mean_by_person(make_queries(name, feats), sources) for name in names}
    found = {}
    for task in tasks:
        parts = [means[name] for name in modalities_of(task)]
        persons = functools.reduce(np.intersect1d, (owners for _, owners in parts))
        found[task] = sum(rows[np.isin(owners, persons)] for rows, owners in parts), persons
    return found


def _first_photos(person_ids: np.ndarray, count: int) -> np.ndarray:
    """Mark each person's first photos (N,)."""
    first = np.zeros(len(person_ids), np.bool_)
    for person in np.unique(person_ids):
        first[np.flatnonzero(person_ids == person)[:count]] = True
    return first


def _mean_by_person(queries: TaskQueries, sources: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average each person's queries that come from the marked photos (N,) or from no photo."""
    used = (queries.photos == NO_INDEX) | sources[queries.photos]
    persons, places, counts = np.unique(queries.person_ids[used], return_inverse=True, return_counts=True)
    sums = np.zeros((len(persons), queries.feats.shape[1]), np.float64)
    np.add.at(sums, places, queries.feats[used])
    return (sums / counts[:, None]).astype(np.float32), persons


def _missing_modality(feats: SplitFeatures, settings: EvalConfig) -> _Rows:
    """Fusion queries; half of each share loses the text, the other half the sketch.

    The order is drawn once: a larger share adds queries to those of a smaller one.
    """
    queries = make_queries("fusion", feats)
    order = np.random.default_rng(MISSING_SEED).permutation(len(queries.feats))
    rule = "full_gallery" if feats.caption_photos is None else "exclude_source_photo"
    for share in settings.missing_shares:
        lost = order[: round(share * len(order))]
        sketch_lost, text_lost = lost[::2], lost[1::2]
        rows = queries.feats.copy()
        rows[sketch_lost] = feats.text[queries.captions[sketch_lost]]
        rows[text_lost] = feats.sketch[queries.sketches[text_lost]]
        left = dataclasses.replace(queries, feats=rows)
        yield ("fusion", f"missing_modality {100 * share:g}%"), *queries_and_gallery(left, feats, rule)


def _ten_trials(feats: SplitFeatures, score: _Score, settings: EvalConfig) -> Results:
    """Means over the trials; each trial has queries and gallery of its own persons."""
    parts = [feats.of_persons(persons) for persons in feats.trials]
    found: Results = {}
    for task in tasks_of(feats, settings.tasks):
        pairs = (queries_and_gallery(make_queries(task, part), part, "full_gallery") for part in parts)
        found[task, "ten_trials"] = _over_trials([score(queries, gallery) for queries, gallery in pairs])
    return found


def _over_trials(results: Sequence[RetrievalMetrics]) -> TrialMetrics:
    values, counts = _collected(results)
    deviation = {name: float(np.std(v, ddof=1)) if len(v) > 1 else 0.0 for name, v in values.items()}
    means = {name: float(np.mean(v)) for name, v in values.items()}
    return TrialMetrics(**means, **counts, trials=len(results), deviation=deviation)


def _collected(results: Sequence[RetrievalMetrics]) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Return each metric's values in the results that have queries with a match, and the sums of the counts of all."""
    counts = {name: sum(getattr(one, name) for one in results) for name in ("queries", "queries_without_match")}
    known = [one for one in results if one.queries] or results
    names = [field.name for field in dataclasses.fields(RetrievalMetrics) if field.name not in counts]
    return {name: [getattr(one, name) for one in known] for name in names}, counts


def _orbench(feats: SplitFeatures, score: _Score, settings: EvalConfig) -> Results:
    """The tasks whose queries are given, and means over all of ORBench's tasks of one, two, three and four modalities.

    A mean is left out where not all of its tasks are evaluated.
    """
    found: Results = {}
    for task in tasks_of(feats, settings.tasks):
        found[task, orbench.NAME] = score(*queries_and_gallery(make_queries(task, feats), feats, "full_gallery"))
    for number in range(1, 5):
        part = [metrics for (task, _), metrics in found.items() if len(modalities_of(task)) == number]
        if len(part) == sum(len(modalities_of(task)) == number for task in orbench.TASKS.values()):
            values, counts = _collected(part)
            means = {name: float(np.mean(v)) for name, v in values.items()}
            found[f"{MEAN}{number}", orbench.NAME] = RetrievalMetrics(**means, **counts)
    return found


_ROWS: dict[str, Callable[[SplitFeatures, EvalConfig], _Rows]] = {
    **{name: _rule(name) for name in GALLERY_RULES},
    "paper": _paper,
    "multi_query": _multi_query,
    "missing_modality": _missing_modality,
}
