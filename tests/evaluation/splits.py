"""Small random splits of both kinds, and the protocols' definitions as plain loops."""

import numpy as np

from ms_unireid.evaluation.queries import SplitFeatures
from reference import metrics as reference


def tri_split(seed, photos=30, people=12, captions=50, cameras=None):
    """Captions and sketches belong to photos; some photos have several captions, some none."""
    rng = np.random.default_rng(seed)
    person_ids = rng.integers(0, people, photos)
    base = rng.standard_normal((people, 8))[person_ids]
    photo, sketch = (base + rng.standard_normal(base.shape) for _ in range(2))
    owner = np.sort(rng.integers(0, photos, captions))
    text = base[owner] + rng.standard_normal((captions, 8))
    seen = None if cameras is None else rng.integers(0, cameras, photos)
    return SplitFeatures(photo, sketch, text, person_ids=person_ids, caption_photos=owner, cameras=seen)


def person_split(seed, people=8, sketches=3, captions=2, trials=0):
    """Captions and sketches belong to persons; one person has no caption, another has no sketch.

    Identities are in no order and have gaps; each trial tests half of those drawn.
    """
    rng = np.random.default_rng(seed)
    base = rng.standard_normal((people + 1, 8))
    names = rng.permutation(np.arange(100, 100 + 3 * (people + 1), 3))

    def draw(owners):
        return base[owners] + rng.standard_normal((len(owners), 8))

    photos = rng.permutation(np.repeat(np.arange(people + 1), 1 + rng.integers(1, 3, people + 1)))
    drawn = rng.permutation(np.repeat(np.arange(people), rng.integers(1, sketches + 1, people)))
    counts = rng.integers(1, captions + 1, people) if captions else np.zeros(people, int)
    counts[0] = 0
    captioned = rng.permutation(np.repeat(np.arange(people), counts))
    return SplitFeatures(
        draw(photos),
        draw(drawn),
        draw(captioned) if captions else np.zeros((0, 8)),
        person_ids=names[photos],
        caption_persons=names[captioned],
        sketch_persons=names[drawn],
        trials=tuple(names[rng.permutation(people)[: people // 2]] for _ in range(trials)),
    )


def literal_queries(task, feats):
    """List (feature, person, photo or None, the caption's feature, the sketch's feature) of each query of a task."""
    found = []
    by_photo = feats.caption_photos is not None
    texts = [
        (feats.text[c], feats.person_ids[feats.caption_photos[c]], feats.caption_photos[c])
        if by_photo
        else (feats.text[c], feats.caption_persons[c], None)
        for c in range(len(feats.text))
    ]
    sketches = [
        (feats.sketch[s], feats.person_ids[s], s) if by_photo else (feats.sketch[s], feats.sketch_persons[s], None)
        for s in range(len(feats.sketch))
    ]
    if task == "text":
        return [(feat, person, photo, feat, None) for feat, person, photo in texts]
    if task == "sketch":
        return [(feat, person, photo, None, feat) for feat, person, photo in sketches]
    for text, person, photo in texts:
        for sketch, drawn, other in sketches:
            if drawn == person and other == photo:
                found.append((text + sketch, person, photo, text, sketch))
    return found


def literal_rule(queries, feats, rule):
    """Evaluate queries, listed as above, under a rule of the gallery, entry by entry."""
    keep = np.ones((len(queries), len(feats.photo)), bool)
    for q, (_, person, photo, *_) in enumerate(queries):
        for g in range(len(feats.photo)):
            source = rule == "exclude_source_photo" and g == photo
            own = rule == "camera_aware" and feats.person_ids[g] == person
            keep[q, g] = not (source or (own and feats.cameras[g] == feats.cameras[photo]))
    return literal_scores([query[0] for query in queries], [query[1] for query in queries], feats, keep)


def literal_scores(rows, persons, feats, keep=None):
    """Evaluate features (Q, D) of persons (Q,) on the entries of the gallery that stay (Q, G)."""
    unit = [np.array([row / np.linalg.norm(row) for row in np.asarray(part, float)]) for part in (rows, feats.photo)]
    scores = reference.evaluate(unit[0] @ unit[1].T, persons, feats.person_ids, keep)
    return scores | {"chance_R1": reference.chance_r1(persons, feats.person_ids, keep)}


def literal_multi_query(task, feats, count):
    """Evaluate one query for each person: means of its captions and sketches, or of those of its first photos."""
    rows, persons, keep = [], [], []
    for person in sorted(set(feats.person_ids.tolist())):
        own = [g for g in range(len(feats.photo)) if feats.person_ids[g] == person]
        asking = own[:count] if feats.caption_photos is not None else []
        means = []
        for kind in ("text", "sketch") if task == "fusion" else (task,):
            about = [
                feat
                for feat, who, photo, *_ in literal_queries(kind, feats)
                if who == person and (photo is None or photo in asking)
            ]
            if about:
                means.append(sum(about) / len(about))
        if len(means) == (2 if task == "fusion" else 1):
            rows.append(sum(means))
            persons.append(person)
            keep.append([g not in asking for g in range(len(feats.photo))])
    return literal_scores(rows, persons, feats, np.array(keep))


def literal_trials(task, feats):
    """Evaluate each trial on the photos and queries of its own persons, and list the scores."""
    found = []
    for tested in feats.trials:
        photos = [g for g in range(len(feats.photo)) if feats.person_ids[g] in tested]
        queries = [query for query in literal_queries(task, feats) if query[1] in tested]
        part = SplitFeatures(feats.photo[photos], feats.sketch[:0], feats.text[:0], person_ids=feats.person_ids[photos])
        found.append(literal_scores([query[0] for query in queries], [query[1] for query in queries], part))
    return found
