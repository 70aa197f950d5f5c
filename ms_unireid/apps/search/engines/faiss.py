"""Approximate search through faiss, for millions of photos."""

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ms_unireid.apps.optional import need
from ms_unireid.apps.search.engines.embedded import PhotoIndex
from ms_unireid.apps.search.engines.exact import exact_search
from ms_unireid.apps.search.filters import Filter
from ms_unireid.apps.search.manifest import digest_of
from ms_unireid.errors import DataError, UserError
from ms_unireid.evaluation.similarity import normalize_rows
from ms_unireid.files import open_regular, read_json, replacing, sha256, write_json
from ms_unireid.installation import install_extra, job_command

FAISS_FILE, FAISS_ABOUT = "approximate.faiss", "approximate.json"
_ABOUT = {"id": str, "changes": int, "lists_looked_into": int, "digest": str, str: object}
TOP = 10
# faiss recommends 4 lists per square root of the photos, and 40 training photos per list.
_LISTS, _SAMPLE = 4, 40
_ADD_AT_ONCE = 1 << 16


class FaissIndex(PhotoIndex):
    """An index that is searched through faiss (IVF): photos are clustered into lists, and a query reads the nearest.

    A search with a filter is exact.

    Args:
        folder: The index, in which `build_approximate` has built the lists.

    Attributes:
        approximate: Number of lists, lists searched per query (`lists_looked_into`), and the recall at building.

    Raises:
        DataError: If the index or its lists are missing or damaged, or it has changed since they were built.
        EnvironmentProblem: If faiss is not installed.
    """

    def __init__(self, folder: Path):
        faiss = _faiss()
        super().__init__(folder)
        file = self.folder / FAISS_FILE
        fix = f"build it with {job_command('search')} approximate"
        try:
            self.approximate = read_json(self.folder / FAISS_ABOUT, _ABOUT, fix)
            if self.approximate.pop("digest") != digest_of([self.approximate, sha256(open_regular(file))]):
                raise ValueError("its digest is another one")
            # Not memory-mapped: a mapped file that is shortened kills the process.
            self._lists = faiss.read_index(str(file))
        except (UserError, OSError, ValueError, RuntimeError) as error:
            raise DataError(f"{file}: the approximate index is missing or damaged; {fix}") from error
        if (self.approximate["id"], self.approximate["changes"]) != (self.about["id"], self.about["changes"]):
            raise DataError(f"{file}: {self.folder} has changed since this was built; {fix} again")
        self._lists.nprobe = self.approximate["lists_looked_into"]

    def search(self, queries: np.ndarray, k: int, where: Filter | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Search the lists, as `PhotoStore.search`; exact with a filter."""
        if where:
            return super().search(queries, k, where)
        scores, rows = self._lists.search(normalize_rows(queries), k)
        return rows, np.minimum(scores, 1)


def build_approximate(index: PhotoIndex, queries: Mapping[str, np.ndarray], recall: float = 0.95) -> dict[str, Any]:
    """Build the approximate index, and choose the smallest number of lists per query that reaches the recall.

    Recall is the fraction of the exact top 10 that the approximate search finds.

    Args:
        index: The photos.
        queries: Kind of query to un-normalised features (Q, D), to measure the recall with.
        recall: Required for each kind of query.

    Returns:
        The content of `approximate.json`.

    Raises:
        DataError: If the index has no photos.
        EnvironmentProblem: If faiss is not installed.
        UserError: If the files cannot be written.
    """
    faiss = _faiss()
    if not index.count:
        raise DataError(f"{index.folder}: the index has no photos; add some with {job_command('search')} index")
    lists = _build_lists(faiss, index)
    exact = {kind: exact_search(index.features, feats, TOP)[0] for kind, feats in queries.items()}
    steps = [min(2**power, lists.nlist) for power in range(lists.nlist.bit_length() + 1)]
    measured = []
    for count in dict.fromkeys(steps):
        lists.nprobe = count
        found = {kind: lists.search(normalize_rows(feats), TOP)[1] for kind, feats in queries.items()}
        measured.append(
            {"lists_looked_into": count, **{kind: recall_of(found[kind].tolist(), exact[kind]) for kind in queries}}
        )
        if min(measured[-1][kind] for kind in queries) >= recall:
            break
    about = {
        "id": index.about["id"],
        "changes": index.about["changes"],
        "photos": index.count,
        "lists": lists.nlist,
        "lists_looked_into": measured[-1]["lists_looked_into"],
        "recall_at_10": {kind: measured[-1][kind] for kind in queries},
        "queries": {kind: len(feats) for kind, feats in queries.items()},
        "measured": measured,
    }
    with contextlib.suppress(FileNotFoundError):
        (index.folder / FAISS_ABOUT).unlink()  # an interrupted build leaves no index that looks complete
    with replacing(index.folder / FAISS_FILE) as temporary:
        faiss.write_index(lists, str(temporary))
        digest = digest_of([about, sha256(temporary.open("rb"))])
    write_json(index.folder / FAISS_ABOUT, {**about, "digest": digest})
    return about


def sample_photos(index: PhotoIndex, count: int) -> np.ndarray:
    """Return the features of photos at even distances in the index, (count, D) float32."""
    rows = np.unique(np.linspace(0, index.count - 1, count).astype(int))
    return index.features[rows].astype(np.float32)


def _build_lists(faiss: ModuleType, index: PhotoIndex) -> Any:
    count = max(1, min(int(_LISTS * index.count**0.5), index.count // _SAMPLE))
    storage = "SQfp16" if index.features.dtype == np.float16 else "Flat"
    lists = faiss.index_factory(index.dim, f"IVF{count},{storage}", faiss.METRIC_INNER_PRODUCT)
    lists.by_residual = False  # stores the features themselves, so the scores equal those of the exact search
    rng = np.random.default_rng(1)
    sample = np.sort(rng.choice(index.count, min(index.count, count * _SAMPLE), replace=False))
    lists.train(index.features[sample].astype(np.float32))
    for start in range(0, index.count, _ADD_AT_ONCE):
        lists.add(index.features[start : start + _ADD_AT_ONCE].astype(np.float32))
    return lists


def recall_of(found: Iterable[Iterable[int]], exact: np.ndarray) -> float:
    """Return the fraction of the exact rows (Q, K) that are among those found for each query."""
    hits = [len(set(one) & set(other)) for one, other in zip(found, exact.tolist(), strict=True)]
    return sum(hits) / exact.size


def _faiss() -> ModuleType:
    return need("faiss", "approximate search", f"install it with: {install_extra('faiss')}")
