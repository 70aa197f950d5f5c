"""Which queries meet which gallery; no MindSpore."""

from dataclasses import dataclass

import numpy as np

from ms_unireid.evaluation.metrics import Gallery, Queries, RetrievalMetrics, evaluate_retrieval

TASK_SYMBOLS = {"text": "T->R", "sketch": "S->R", "fusion": "T+S->R"}
PROTOCOLS = ("exclude_source_photo", "full_gallery")
# The paper's: Table 2 leaves the source photo out, Tables 3-5 search the original gallery by text.
PAPER_ROWS = (
    ("text", "exclude_source_photo"),
    ("sketch", "exclude_source_photo"),
    ("fusion", "exclude_source_photo"),
    ("text", "full_gallery"),
)


@dataclass(frozen=True)
class SplitFeatures:
    """Un-normalised features of a split, each photo, sketch and caption once.

    Attributes:
        photo: (N, D) gallery features; photo i has image id i.
        sketch: (N, D) features of each photo's sketch.
        text: (C, D) features of each caption.
        person_ids: (N,) person of each photo.
        caption_photos: (C,) the photo a caption belongs to.
    """

    photo: np.ndarray
    sketch: np.ndarray
    text: np.ndarray
    person_ids: np.ndarray
    caption_photos: np.ndarray


def queries(task: str, feats: SplitFeatures) -> tuple[np.ndarray, np.ndarray]:
    """Return a task's query features (Q, D) and the photo each query was made from (Q,).

    Text and fusion ask once per caption, fusion with the sketch of the caption's photo; sketch asks once per sketch.
    """
    if task == "sketch":
        return feats.sketch, np.arange(len(feats.sketch))
    if task == "text":
        return feats.text, feats.caption_photos
    return feats.text + feats.sketch[feats.caption_photos], feats.caption_photos


def evaluate_row(task: str, protocol: str, feats: SplitFeatures) -> RetrievalMetrics:
    """Evaluate one task under one protocol: `full_gallery`, or without the photo the query was made from.

    Raises:
        ValueError: If a feature is not finite.
    """
    query_feats, photos = queries(task, feats)
    excluded = photos if protocol == "exclude_source_photo" else None
    asked = Queries(query_feats, feats.person_ids[photos], excluded)
    return evaluate_retrieval(asked, Gallery(feats.photo, feats.person_ids))
