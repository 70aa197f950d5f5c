"""Exact search for the ten nearest of a million photos, compared with a matrix product in numpy.

python tools/benchmark.py search --photos 1000000 --rounds 5 --json search.json
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ms_unireid.apps.arguments import at_least
from ms_unireid.apps.benchmarks.runs import (
    MIB,
    Run,
    figure,
    in_turns,
    limit,
    machine,
    measured,
    number,
    ratio,
    spread,
    table,
)
from ms_unireid.apps.search.engines.exact import exact_search
from ms_unireid.evaluation.similarity import normalize_rows

DIM, TOP = 512, 10
ROWS_AT_ONCE = 10_000
BASELINES = {
    "numpy": "numpy, from disk to float32, one product",
    "numpy_in_memory": "numpy, float32 in memory, one product",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sub-command."""
    parser.add_argument("--photos", type=at_least(1), default=1_000_000)
    parser.add_argument("--rounds", type=at_least(1), default=5)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure one query, after a warm-up query."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "features.float16"
        make_features(file, options.photos)
        jobs = {name: (f"search-{name}", file, options.photos) for name in ("ours", *BASELINES)}
        runs = in_turns(jobs, options.rounds, "search")
    answers = {tuple(tuple(run.pop("rows")) for run in done) for done in runs.values()}
    return {
        "what": f"top {TOP} of one query among {options.photos} x {DIM} float16 features, memory-mapped",
        "photos": options.photos,
        "rounds": options.rounds,
        "same_answer": len(answers) == 1,
        "seconds": {name: figure(done) for name, done in runs.items()},
        "peak_bytes": {name: figure(done, "peak_bytes") for name, done in runs.items()},
        "times_as_fast": {name: ratio(runs[name], runs["ours"]) for name in BASELINES},
        "machine": machine(),
    }


def to_text(result: dict[str, Any]) -> str:
    """Format the measurements as text."""
    least = number(limit(result, moved=result["photos"] * DIM * 2))
    rows = []
    for name, seconds in result["seconds"].items():
        peak, faster = result["peak_bytes"][name]["median"] / MIB, result["times_as_fast"].get(name)
        rows.append((BASELINES.get(name, name), spread(seconds), faster and spread(faster), f"{peak:,.0f}", least))
    return (
        f"{result['what']}; {result['rounds']} rounds, median [min..max]; "
        f"the same answer from all: {'yes' if result['same_answer'] else 'NO'}\n\n"
        + table(rows, "way", "seconds", "ours is as many times as fast", "peak MiB", "limit, s")
    )


def make_features(file: Path, photos: int) -> None:
    """Write random features of unit length, float16."""
    rng = np.random.default_rng(1)
    with file.open("wb") as stream:
        for start in tqdm(range(0, photos, ROWS_AT_ONCE), desc="features", unit="block"):
            rows = rng.standard_normal((min(ROWS_AT_ONCE, photos - start), DIM), np.float32)
            stream.write(normalize_rows(rows).astype(np.float16).tobytes())


def _open(file: str, photos: str) -> tuple[np.ndarray, np.ndarray]:
    queries = np.random.default_rng(2).standard_normal((2, DIM), np.float32)
    return np.memmap(file, np.float16, "r", shape=(int(photos), DIM)), normalize_rows(queries)


def _search(file: str, photos: str) -> Run:
    features, (warm_up, query) = _open(file, photos)
    found: list[np.ndarray] = []
    exact_search(features, warm_up[None], TOP)
    run = measured(lambda: found.append(exact_search(features, query[None], TOP)[0][0]))
    return {**run, "rows": found[0].tolist()}


def _multiply(file: str, photos: str, in_memory: bool) -> Run:
    features, (warm_up, query) = _open(file, photos)
    rows = features.astype(np.float32) if in_memory else features

    def search(row: np.ndarray) -> np.ndarray:
        return np.argsort(-(rows.astype(np.float32, copy=False) @ row), kind="stable")[:TOP]

    found: list[np.ndarray] = []
    search(warm_up)
    run = measured(lambda: found.append(search(query)))
    return {**run, "rows": found[0].tolist()}


JOBS = {
    "search-ours": _search,
    "search-numpy": lambda file, photos: _multiply(file, photos, in_memory=False),
    "search-numpy_in_memory": lambda file, photos: _multiply(file, photos, in_memory=True),
}
