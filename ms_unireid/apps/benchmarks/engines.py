"""Engines of the search at several sizes: time to build and to answer, memory and recall.

python tools/benchmark.py engines --index INDEX --photos 100000 1000000 --json engines.json

The features are random, with the mean and the spread of those of an index, and in groups of four that have the cosine
of photos of one person there. A query has that cosine to a photo, or that of texts.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ms_unireid.apps.arguments import at_least
from ms_unireid.apps.benchmarks.runs import MIB, Run, alone, measured
from ms_unireid.apps.search.engines.embedded import PhotoIndex
from ms_unireid.apps.search.engines.exact import exact_search
from ms_unireid.apps.search.engines.faiss import TOP, FaissIndex, build_approximate, recall_of
from ms_unireid.apps.search.index_writer import IndexWriter
from ms_unireid.apps.search.manifest import Photo, Source
from ms_unireid.evaluation.similarity import normalize_rows
from ms_unireid.runtime import describe

QUERIES, TIMED = 100, 20
AT_ONCE = 1 << 16
TEXT_COSINE = 0.61  # of a text and a photo of its person: the median of models/synthetic.safetensors on unseen persons
MOST_LISTS = 8192  # clustering for more takes hours on two cores
PQ_EFFORTS = (1, 4, 16, 64, 256)  # lists looked into


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sub-command."""
    parser.add_argument("--index", type=Path, required=True, help="index of photos of known persons, for the spread")
    parser.add_argument("--photos", type=at_least(1000), nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--dim", type=at_least(8), default=512, help="length of a feature")
    parser.add_argument("--engines", nargs="+", choices=tuple(_ENGINES), default=["embedded", "faiss"])


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure every engine at every size, each in a process of its own."""
    with tempfile.TemporaryDirectory() as place:
        spread = Path(place) / "spread.npz"
        about = _measure_spread(PhotoIndex(options.index), options.dim, spread)
        found: dict[str, dict[str, Run]] = {}
        for count in options.photos:
            folder = Path(place) / f"{count}"
            if set(options.engines) - {"ivf-pq"}:
                _make_index(folder, spread, count)
            found[f"{count}"] = {name: alone(f"engines-{name}", folder, spread, count) for name in options.engines}
    return {
        "what": f"top {TOP} of features of length {options.dim}",
        **about,
        "found": found,
        "machine": describe("CPU"),
    }


def to_text(result: dict[str, Any]) -> str:
    """Format the measurements as text."""
    lines = [f"{result['what']}; photos of one person have the cosine {result['photo_cosine']:.2f}"]
    for count, engines in result["found"].items():
        for name, run in engines.items():
            lines.append(
                f"{int(count):,} photos, {name}: built in {run['build_seconds']:.0f} s, opened in "
                f"{run['open_seconds']:.1f} s, a query {1000 * run['query_seconds']:.1f} ms, "
                f"{run['peak_bytes'] / MIB:.0f} MiB at the peak of searching"
            )
            lines += [f"    {one}" for one in run.get("recall", ())]
    return "\n".join(lines)


def _measure_spread(index: PhotoIndex, dim: int, file: Path) -> dict[str, float]:
    """Store the length of the mean and the variances along `dim` axes: those of the index, stretched."""
    feats = index.features.astype(np.float32)
    persons = np.array([index.person(row) or f"row {row}" for row in range(index.count)])
    same = (persons[:, None] == persons[None]) & ~np.eye(index.count, dtype=bool)
    variances = np.sort(np.linalg.eigvalsh(np.cov(feats.T)))[::-1].clip(0)
    places = np.linspace(0, len(variances) - 1, dim)
    stretched = np.interp(places, np.arange(len(variances)), variances)
    mean, total = np.linalg.norm(feats.mean(axis=0)), variances.sum()
    photo = float(np.median((feats @ feats.T)[same])) if same.any() else 0.9
    np.savez(file, mean=mean, deviations=np.sqrt(stretched * total / stretched.sum()), cosines=[photo, TEXT_COSINE])
    return {"photo_cosine": photo, "text_cosine": TEXT_COSINE, "mean": float(mean), "variance": float(total)}


def _features(spread: Path, count: int) -> Iterator[np.ndarray]:
    """Yield the features in blocks (N, D) float32, the same at every call."""
    with np.load(spread) as found:
        mean, cosine, deviations = (
            float(found["mean"]),
            float(found["cosines"][0]),
            found["deviations"].astype(np.float32),
        )
    axes = np.linalg.qr(np.random.default_rng(0).standard_normal((len(deviations), len(deviations))))[0]
    axes = axes.astype(np.float32)
    for start in range(0, count, AT_ONCE):
        rng = np.random.default_rng([1, start])
        size = min(AT_ONCE, count - start)
        persons, own = (
            rng.standard_normal((n, len(deviations)), np.float32) * deviations for n in (size // 4 + 1, size)
        )
        # The mean lies on the axis of the least variance.
        persons, own = (normalize_rows(rows @ axes + mean * axes[-1]) for rows in (persons, own))
        yield _near(np.repeat(persons, 4, axis=0)[:size], own, cosine**0.5)


def _near(targets: np.ndarray, others: np.ndarray, cosine: float) -> np.ndarray:
    """Return rows (N, D) of length 1 with this cosine to the targets, in the directions of others."""
    across = normalize_rows(others - (others * targets).sum(axis=1, keepdims=True) * targets)
    return cosine * targets + np.float32((1 - cosine**2) ** 0.5) * across


def _queries(spread: Path) -> dict[str, np.ndarray]:
    """Make queries (Q, D) float32 near photos of the first block."""
    with np.load(spread) as found:
        cosines = dict(zip(("photos", "texts"), found["cosines"].tolist(), strict=True))
    block = next(_features(spread, AT_ONCE))
    targets, others = block[: 4 * QUERIES : 4], block[4 * QUERIES : 8 * QUERIES : 4]
    return {kind: _near(targets, others, cosine) for kind, cosine in cosines.items()}


def _make_index(folder: Path, spread: Path, count: int) -> None:
    """Write an index of photos that do not exist, as `search index` would."""
    dim = next(_features(spread, 1)).shape[1]
    about = {
        "checkpoint": {"path": "none", "sha256": "0"}, "model": {}, "preprocessing": {}, "dtype": "float16", "dim": dim,
        "facts": 1,
    }  # fmt: skip
    writer = IndexWriter(folder, about)
    with writer.manifest.transaction():
        source = writer.manifest.add_source(Source("/photos"))
    done = 0
    for block in _features(spread, count):
        names = range(done, done + len(block))
        photos = [
            Photo(source, f"{n % 100}/{n:010d}.jpg", n, n, n.to_bytes(32, "big"), camera=f"{n % 100}") for n in names
        ]
        writer.append(photos, block)
        done += len(block)
    writer.close()


def _timed(index: Any, spread: Path) -> Run:
    """Time single queries, as a user sends them."""
    queries, seconds = _queries(spread)["texts"], []

    def search() -> None:
        for query in queries[:TIMED]:
            start = time.perf_counter()
            index.search(query[None], TOP)
            seconds.append(time.perf_counter() - start)

    return {**measured(search), "query_seconds": statistics.median(seconds)}


def _seconds(work: Any, *arguments: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    return work(*arguments), time.perf_counter() - start


def _embedded(folder: str, spread: str, count: str) -> Run:
    index, opened = _seconds(PhotoIndex, Path(folder))
    return {**_timed(index, Path(spread)), "open_seconds": opened, "build_seconds": 0}


def _faiss(folder: str, spread: str, count: str) -> Run:
    about, built = _seconds(build_approximate, PhotoIndex(Path(folder)), _queries(Path(spread)))
    index, opened = _seconds(FaissIndex, Path(folder))
    return {**_timed(index, Path(spread)), "open_seconds": opened, "build_seconds": built, "recall": about["measured"]}


def _ivf_pq(folder: str, spread: str, count: str) -> Run:
    """Build compressed lists (64 bytes a photo) block by block; faiss does what Milvus calls IVF_PQ."""
    import faiss

    queries, number = _queries(Path(spread)), int(count)
    exact: dict[str, list] = {kind: [] for kind in queries}
    lists = max(16, min(int(4 * number**0.5), number // 40, MOST_LISTS))
    blocks = _features(Path(spread), number)
    sample = np.concatenate([block for block, _ in zip(blocks, range(-(-40 * lists // AT_ONCE)), strict=False)])
    index = faiss.index_factory(sample.shape[1], f"IVF{lists}_HNSW32,PQ64np", faiss.METRIC_INNER_PRODUCT)
    _, built = _seconds(index.train, sample[: 40 * lists])
    del sample
    for place, block in enumerate(_features(Path(spread), number)):
        built += _seconds(index.add, block)[1]
        for kind, feats in queries.items():
            rows, scores = exact_search(block, feats, TOP)
            exact[kind].append((rows + place * AT_ONCE, scores))
    truth = {kind: _best(*map(np.hstack, zip(*parts, strict=True))) for kind, parts in exact.items()}
    recall = []
    for effort in PQ_EFFORTS:
        index.nprobe = effort
        found = {kind: index.search(feats.astype(np.float32), 10 * TOP)[1] for kind, feats in queries.items()}
        recall.append({"lists_looked_into": effort} | {
            f"{kind} in the first {depth}": recall_of(rows[:, :depth].tolist(), truth[kind])
            for kind, rows in found.items() for depth in (TOP, 10 * TOP)
        })  # fmt: skip
    faiss.write_index(index, str(Path(spread).with_name("pq.faiss")))
    size = Path(spread).with_name("pq.faiss").stat().st_size
    index.nprobe = 16

    class Lists:
        def search(self, feats: np.ndarray, k: int) -> None:
            index.search(feats.astype(np.float32), k)

    run = _timed(Lists(), Path(spread))
    return {**run, "open_seconds": 0, "build_seconds": built, "file_bytes": size, "recall": recall}


def _best(rows: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return np.take_along_axis(rows, np.argsort(-scores, axis=1)[:, :TOP], axis=1)


_ENGINES = {"embedded": _embedded, "faiss": _faiss, "ivf-pq": _ivf_pq}
JOBS = {f"engines-{name}": job for name, job in _ENGINES.items()}
