"""How a split is evaluated, by name: which queries meet which gallery, and what is averaged; no MindSpore."""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from ms_unireid.config import TASKS, EvalConfig
from ms_unireid.errors import ConfigError
from ms_unireid.evaluation.metrics import (
    Gallery,
    Queries,
    RetrievalMetrics,
    average,
    evaluate_retrieval,
    score_similarity,
)
from ms_unireid.evaluation.questions import NONE, Questions, SplitFeatures, against_gallery, ask
from ms_unireid.evaluation.reranking import rerank

# (task, protocol) to metrics.
Results = dict[tuple[str, str], RetrievalMetrics]

GALLERY_RULES = ("exclude_source_photo", "full_gallery", "camera_aware")
# Which queries lose a modality is the same in every run, so that checkpoints can be compared.
MISSING_SEED = 1
PROTOCOLS = (*GALLERY_RULES, "multi_query", "missing_modality", "ten_trials")
# The paper's: Table 2 leaves the source photo out, Tables 3-5 search the original gallery by text.
PAPER_ROWS = (
    ("text", "exclude_source_photo"),
    ("sketch", "exclude_source_photo"),
    ("fusion", "exclude_source_photo"),
    ("text", "full_gallery"),
)


@dataclass(frozen=True)
class TrialMetrics(RetrievalMetrics):
    """Means over trials; the counts are those of all trials together.

    Attributes:
        trials: How many.
        deviation: Sample standard deviation of each metric over the trials.
    """

    trials: int
    deviation: dict[str, float]


def evaluate_protocol(protocol: str, feats: SplitFeatures, settings: EvalConfig | None = None) -> Results:
    """Evaluate every task that the split has queries for.

    Args:
        protocol: One of `PROTOCOLS`, or `paper`: Table 2's rows and Tables 3-5's; ten trials where the data set has
            them; single and multiple queries where sketches belong to persons otherwise.
        feats: Features of the split.
        settings: For `multi_query` and `missing_modality`.

    Raises:
        ConfigError: If the data set has not what the protocol needs.
        ValueError: If a feature is not finite.
    """
    settings = settings or EvalConfig()
    if protocol == "paper":
        return _paper(feats, settings)
    if protocol == "all":
        return {key: value for name in _possible(feats) for key, value in _PROTOCOLS[name](feats, settings).items()}
    missing = _lacks(protocol, feats)
    if missing:
        raise ConfigError(f"protocol {protocol}: the data set {missing}; choose one of {', '.join(_possible(feats))}")
    return _PROTOCOLS[protocol](feats, settings)


def evaluate_row(task: str, protocol: str, feats: SplitFeatures) -> RetrievalMetrics:
    """Evaluate one task under one of `GALLERY_RULES`.

    Raises:
        ValueError: If a feature is not finite.
    """
    return evaluate_retrieval(*against_gallery(ask(task, feats), feats, protocol))


def evaluate_reranked(keys: Iterable[tuple[str, str]], feats: SplitFeatures) -> Results:
    """Evaluate rows again with k-reciprocal re-ranking; those under `GALLERY_RULES`, their protocol marked `reranked`.

    Args:
        keys: Task and protocol of rows.
        feats: Features of the split.

    Raises:
        ValueError: If a feature is not finite.
    """
    found, similarity = {}, {}
    for task, protocol in keys:
        if protocol in GALLERY_RULES:
            asked = against_gallery(ask(task, feats), feats, protocol)
            if task not in similarity:
                similarity[task] = rerank(asked[0].feats, asked[1].feats)
            found[task, f"{protocol} reranked"] = average(score_similarity(similarity[task], *asked))
    return found


def tasks_of(feats: SplitFeatures) -> tuple[str, ...]:
    """List the tasks that a split has queries for: without captions, sketch only."""
    return TASKS if len(feats.text) else ("sketch",)


def _possible(feats: SplitFeatures) -> list[str]:
    return [name for name in PROTOCOLS if not _lacks(name, feats)]


def _lacks(protocol: str, feats: SplitFeatures) -> str:
    """Say what the data set has not that a protocol needs; nothing if it has all."""
    tied_to_photos = feats.caption_photos is not None
    if protocol == "camera_aware" and feats.cameras is None:
        return "does not tell the cameras of its photos"
    if protocol in ("exclude_source_photo", "camera_aware") and not tied_to_photos:
        return "has no photo behind a query"
    if protocol == "missing_modality" and not len(feats.text):
        return "has no captions"
    if protocol == "ten_trials" and not feats.trials:
        return "has no trials"
    return ""


def _paper(feats: SplitFeatures, settings: EvalConfig) -> Results:
    if feats.trials:
        return _ten_trials(feats, settings)
    if feats.caption_photos is None:
        return _rule("full_gallery")(feats, settings) | _multi_query(feats, settings)
    return {(task, protocol): evaluate_row(task, protocol, feats) for task, protocol in PAPER_ROWS}


def _rule(protocol: str) -> Callable[[SplitFeatures, EvalConfig], Results]:
    def evaluate(feats: SplitFeatures, _: EvalConfig) -> Results:
        return {(task, protocol): evaluate_row(task, protocol, feats) for task in tasks_of(feats)}

    return evaluate


def _multi_query(feats: SplitFeatures, settings: EvalConfig) -> Results:
    """One query a person: the mean of the features of several captions, or sketches, or both means added.

    Where queries belong to photos they are those of the person's first `multi_query_photos` photos, which then are left
    out of the gallery; otherwise all of the person's.
    """
    asked = np.ones(len(feats.person_ids), bool)
    if feats.caption_photos is not None:
        asked = _first_photos(feats.person_ids, settings.multi_query_photos)
    # Photos in two groups, and the person's own in the group that asks are left out: the rule of cameras.
    left_out = asked.astype(int) if feats.caption_photos is not None else None
    gallery, found = Gallery(feats.photo, feats.person_ids, left_out), {}
    means = {task: _mean_by_person(ask(task, feats), asked) for task in tasks_of(feats) if task != "fusion"}
    if "text" in means:
        persons = np.intersect1d(means["text"][1], means["sketch"][1])
        means["fusion"] = sum(rows[np.isin(owners, persons)] for rows, owners in means.values()), persons
    for task, (rows, persons) in means.items():
        cameras = None if left_out is None else np.ones(len(persons), int)
        found[task, "multi_query"] = evaluate_retrieval(Queries(rows, persons, cameras=cameras), gallery)
    return found


def _first_photos(person_ids: np.ndarray, count: int) -> np.ndarray:
    """Mark each person's first photos (N,)."""
    seen: dict[int, int] = {}
    places = []
    for person in person_ids.tolist():
        places.append(seen.get(person, 0))
        seen[person] = places[-1] + 1
    return np.array(places) < count


def _mean_by_person(questions: Questions, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean feature of each person's queries, of those about `asked` photos, and the persons in order."""
    used = (questions.photos == NONE) | asked[questions.photos]
    persons, places, counts = np.unique(questions.person_ids[used], return_inverse=True, return_counts=True)
    sums = np.zeros((len(persons), questions.feats.shape[1]), np.float64)
    np.add.at(sums, places, questions.feats[used])
    return (sums / counts[:, None]).astype(np.float32), persons


def _missing_modality(feats: SplitFeatures, settings: EvalConfig) -> Results:
    """Fusion queries of which a share lost the text or the sketch, half of them each, and ask with what is left.

    Who loses what is drawn once: with a larger share the same queries and more.
    """
    questions, found = ask("fusion", feats), {}
    order = np.random.default_rng(MISSING_SEED).permutation(len(questions.feats))
    rule = "full_gallery" if feats.caption_photos is None else "exclude_source_photo"
    for share in settings.missing_shares:
        lost = order[: round(share * len(order))]
        rows = questions.feats.copy()
        rows[lost[::2]] = feats.text[questions.captions[lost[::2]]]
        rows[lost[1::2]] = feats.sketch[questions.sketches[lost[1::2]]]
        asked = against_gallery(dataclasses.replace(questions, feats=rows), feats, rule)
        found["fusion", f"missing_modality {100 * share:g}%"] = evaluate_retrieval(*asked)
    return found


def _ten_trials(feats: SplitFeatures, settings: EvalConfig) -> Results:
    """Mean and deviation over the trials, each with its own persons as queries and as gallery."""
    parts = [_rule("full_gallery")(feats.of_persons(persons), settings) for persons in feats.trials]
    tasks = [task for task in tasks_of(feats) if all((task, "full_gallery") in part for part in parts)]
    return {(task, "ten_trials"): _over_trials([part[task, "full_gallery"] for part in parts]) for task in tasks}


def _over_trials(results: list[RetrievalMetrics]) -> TrialMetrics:
    values = {name: [getattr(one, name) for one in results] for name in RetrievalMetrics.__dataclass_fields__}
    counts = {name: sum(values.pop(name)) for name in ("queries", "queries_without_match")}
    deviation = {name: float(np.std(v, ddof=1)) if len(v) > 1 else 0.0 for name, v in values.items()}
    means = {name: float(np.mean(v)) for name, v in values.items()}
    return TrialMetrics(**means, **counts, trials=len(results), deviation=deviation)


_PROTOCOLS: dict[str, Callable[[SplitFeatures, EvalConfig], Results]] = {
    **{name: _rule(name) for name in GALLERY_RULES},
    "multi_query": _multi_query,
    "missing_modality": _missing_modality,
    "ten_trials": _ten_trials,
}
