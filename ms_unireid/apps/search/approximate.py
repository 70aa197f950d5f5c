"""Approximate search for millions of photos, through faiss, and how much of the exact answer it finds."""

import contextlib
import json
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from ms_unireid.apps.optional import need
from ms_unireid.apps.search.index import PhotoIndex
from ms_unireid.apps.search.nearest import nearest
from ms_unireid.errors import DataError
from ms_unireid.evaluation.similarity import normalize_rows
from ms_unireid.files import replacing, write_json

FILE, ABOUT = "approximate.faiss", "approximate.json"
TOP = 10
# Lists per square root of the photos, and photos per list to place the lists by: faiss's own advice.
_LISTS, _SAMPLE = 4, 40
_ROWS_AT_ONCE = 1 << 16


class ApproximateIndex:
    """Looks only into the lists of photos that are nearest to a query.

    Args:
        index: What it was built of.

    Attributes:
        about: Lists, lists looked into, and recall of the exact answer as measured when it was built.

    Raises:
        DataError: If it is not there, damaged, or the index has changed since.
        EnvironmentProblem: If faiss is not installed.
    """

    def __init__(self, index: PhotoIndex):
        faiss = _faiss()
        file = index.folder / FILE
        fix = "make it with tools/search.py approximate"
        try:
            self.about = json.loads((index.folder / ABOUT).read_text(encoding="utf-8"))
            self._lists = faiss.read_index(str(file), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
        except (OSError, ValueError, RuntimeError) as error:
            raise DataError(f"{file}: there is no approximate index that can be read; {fix}") from error
        if (self.about["changes"], self._lists.ntotal) != (index.about["changes"], index.count):
            raise DataError(f"{file}: {index.folder} has changed since; {fix} again")
        self._lists.nprobe = self.about["lists_looked_into"]

    def nearest(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Find rows similar to each query (Q, D), as `nearest` does; rows of -1 stand for fewer than k found."""
        scores, rows = self._lists.search(normalize_rows(queries), k)
        return rows, scores


def build_approximate(index: PhotoIndex, queries: Mapping[str, np.ndarray], recall: float = 0.95) -> dict[str, Any]:
    """Sort an index's photos into lists, and look into as many of them as the recall takes.

    Recall is the share of the exact top 10 that is found.

    Args:
        index: The photos.
        queries: Kind of query to un-normalised features (Q, D) to measure with.
        recall: The least recall of any kind.

    Returns:
        What `approximate.json` holds.

    Raises:
        DataError: If the index has no photos.
        EnvironmentProblem: If faiss is not installed.
        UserError: If it cannot be written.
    """
    faiss = _faiss()
    if not index.count:
        raise DataError(f"{index.folder}: has no photos")
    lists = _sorted_into_lists(faiss, index)
    exact = {kind: nearest(index.features, feats, TOP)[0] for kind, feats in queries.items()}
    steps = [min(2**power, lists.nlist) for power in range(lists.nlist.bit_length() + 1)]
    measured = []
    for count in dict.fromkeys(steps):
        lists.nprobe = count
        found = {kind: lists.search(normalize_rows(feats), TOP)[1] for kind, feats in queries.items()}
        measured.append({"lists_looked_into": count, **{kind: _recall(found[kind], exact[kind]) for kind in queries}})
        if min(measured[-1][kind] for kind in queries) >= recall:
            break
    about = {
        "changes": index.about["changes"],
        "photos": index.count,
        "lists": lists.nlist,
        "lists_looked_into": measured[-1]["lists_looked_into"],
        "recall_at_10": {kind: measured[-1][kind] for kind in queries},
        "queries": {kind: len(feats) for kind, feats in queries.items()},
        "measured": measured,
    }
    with contextlib.suppress(FileNotFoundError):
        (index.folder / ABOUT).unlink()  # until the new one is whole there is none
    with replacing(index.folder / FILE) as temporary:
        faiss.write_index(lists, str(temporary))
    write_json(index.folder / ABOUT, about)
    return about


def sample_photos(index: PhotoIndex, count: int) -> np.ndarray:
    """Return the features of photos spread evenly over an index, (count, D) float32, to measure recall with."""
    rows = np.unique(np.linspace(0, index.count - 1, count).astype(int))
    return index.features[rows].astype(np.float32)


def _sorted_into_lists(faiss: ModuleType, index: PhotoIndex) -> Any:
    lists = max(1, min(int(_LISTS * index.count**0.5), index.count // _SAMPLE))
    stored = "SQfp16" if index.features.dtype == np.float16 else "Flat"
    made = faiss.index_factory(index.dim, f"IVF{lists},{stored}", faiss.METRIC_INNER_PRODUCT)
    made.by_residual = False  # stores the features as they are: scores are those of the exact search
    rng = np.random.default_rng(1)
    sample = np.sort(rng.choice(index.count, min(index.count, lists * _SAMPLE), replace=False))
    made.train(index.features[sample].astype(np.float32))
    for start in range(0, index.count, _ROWS_AT_ONCE):
        made.add(index.features[start : start + _ROWS_AT_ONCE].astype(np.float32))
    return made


def _recall(found: np.ndarray, exact: np.ndarray) -> float:
    hits = [len(set(one) & set(other)) for one, other in zip(found.tolist(), exact.tolist(), strict=True)]
    return sum(hits) / exact.size


def _faiss() -> ModuleType:
    return need("faiss", "approximate search", "pip install -r requirements-faiss.txt")
