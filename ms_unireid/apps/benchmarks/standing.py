"""Every kind of work at three sizes: how cost and memory grow, and what became slower since the last time.

python tools/benchmark.py standing --last runs/benchmark.json --json runs/benchmark.json
"""

import argparse
import contextlib
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ms_unireid.apps.arguments import at_least
from ms_unireid.apps.benchmarks import evaluation, index, input, search
from ms_unireid.apps.benchmarks.runs import (
    MIB,
    Run,
    Standby,
    alone,
    limit,
    machine,
    number,
    pair_operations,
    picture_operations,
    random_encoder,
    spread,
    stand_by,
    summary,
    table,
)
from ms_unireid.checkpoints.clip_names import clip_shapes
from ms_unireid.checkpoints.formats.dtypes import dtype_of
from ms_unireid.checkpoints.formats.safetensors_file import write_safetensors
from ms_unireid.checkpoints.formats.tensor_file import Entry
from ms_unireid.config import ModelConfig, load_config
from ms_unireid.config_schema import ARCHITECTURES
from ms_unireid.files import read_json

_QUERIES = 1000
_TRAINED = 512  # pairs
_WARM_UP = 2  # of a process that stays; its first work compiles
# A figure of another machine says nothing about ours.
_MACHINE = ("platform", "cpu_count", "device")
_SPREAD = {"median": float, "min": float, "max": float}
_RESULT = {
    "works": {str: {"rows": [{"size": int, "seconds": _SPREAD, str: object}], str: object}},
    "machine": {str: object},
    "config": [str],
    str: object,
}


@dataclass(frozen=True)
class Work:
    """A kind of work.

    `runs` prepares it in a folder for a size and returns what measures it once; `needs` counts, for a size and a model,
    what is multiplied and added and the bytes that are moved, at least.
    """

    unit: str
    sizes: tuple[int, ...]
    runs: Callable[[Path, int, list[str], contextlib.ExitStack], Callable[[], Run]]
    needs: Callable[[int, ModelConfig], tuple[float, float]]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sub-command."""
    parser.add_argument("--works", nargs="+", choices=tuple(WORKS), default=list(WORKS))
    parser.add_argument("--rounds", type=at_least(1), default=5)
    parser.add_argument("--last", type=Path, help="JSON file of an earlier time; it may not be there yet")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="change a value of the config")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the works one after another, each at its sizes in turns."""
    last = None
    if options.last and options.last.exists():
        last = read_json(options.last, _RESULT, "give another file as --last, or remove it")
    works = {name: _measure(name, options.rounds, options.overrides) for name in options.works}
    result = {
        "what": f"every kind of work, {options.rounds} rounds",
        "config": list(options.overrides),
        "works": works,
        "machine": machine(),
    }
    return result | {"compared": compare(result, last) if last else None}


def to_text(result: dict[str, Any]) -> str:
    """Format the measurements as text."""
    rows = [
        (
            name,
            f"{row['size']:,} {work['unit']}",
            spread(row["seconds"]),
            number(limit(result, row["operations"], row["moved"])),
            f"{row['peak_bytes'] / MIB:,.0f}",
        )
        for name, work in result["works"].items()
        for row in work["rows"]
    ]
    measured = table(rows, "work", "size", "seconds", "limit, s", "peak MiB")
    growth = [f"{name} size^{work['growth']:.2f}" for name, work in result["works"].items()]
    compared = result["compared"] or {"note": "nothing to compare with", "slower": []}
    slower = [f"- {line}" for line in compared["slower"]] or ["- nothing became slower"] * (compared["note"] == "")
    return "\n".join([measured, "", f"Growth of the time: {', '.join(growth)}.", compared["note"], *slower]).rstrip()


def compare(now: dict[str, Any], last: dict[str, Any]) -> dict[str, Any]:
    """List the figures whose spread lies above that of the last time."""
    changed = [key for key in _MACHINE if now["machine"][key] != last["machine"].get(key)]
    changed += ["config"] * (now["config"] != last["config"])
    if changed:
        return {"note": f"not compared with the last result: another {', '.join(changed)}", "slower": []}
    slower = []
    for name, work in now["works"].items():
        earlier = {row["size"]: row["seconds"] for row in last["works"].get(name, {"rows": []})["rows"]}
        for row in work["rows"]:
            before, seconds = earlier.get(row["size"]), row["seconds"]
            if before and seconds["min"] > before["max"]:
                slower.append(f"{name}, {row['size']:,} {work['unit']}: {spread(seconds)} s, before {spread(before)} s")
    return {"note": "", "slower": slower}


def growth(sizes: list[float], seconds: list[float]) -> float:
    """Return the exponent e of the least-squares fit seconds = c * size^e."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def _measure(name: str, rounds: int, overrides: list[str]) -> dict[str, Any]:
    work = WORKS[name]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        runs: dict[int, list[Run]] = {size: [] for size in work.sizes}
        ways = {size: work.runs(Path(folder), size, overrides, stack) for size in work.sizes}
        for _ in tqdm(range(rounds), desc=name, unit="round"):
            for size, run in ways.items():
                runs[size].append(run())
    model = load_config(None, overrides).model
    rows = [
        {
            "size": size,
            **dict(zip(("operations", "moved"), work.needs(size, model), strict=True)),
            "seconds": summary([run["seconds"] for run in found]),
            "peak_bytes": max(run["peak_bytes"] for run in found),
        }
        for size, found in runs.items()
    ]
    return {"unit": work.unit, "rows": rows, "growth": growth(list(runs), [row["seconds"]["median"] for row in rows])}


def _evaluate(folder: Path, photos: int, _: list[str], __: contextlib.ExitStack) -> Callable[[], Run]:
    file = folder / f"{photos}.npz"
    np.savez(file, **evaluation.make_features(evaluation.Size(_QUERIES, photos, max(2, photos // 4))))
    return lambda: alone("evaluate-ours", file, "full_gallery")


def _search(folder: Path, photos: int, _: list[str], __: contextlib.ExitStack) -> Callable[[], Run]:
    file, block = folder / f"{photos}", folder / "block"
    if not block.exists():
        search.make_features(block, search.ROWS_AT_ONCE)
    content, left = block.read_bytes(), photos * search.DIM * 2
    with file.open("wb") as stream:  # the same rows again and again: their content does not change the time
        while left > 0:
            left -= stream.write(content[:left])
    return lambda: alone("search-ours", file, photos)


def _index(folder: Path, photos: int, overrides: list[str], _: contextlib.ExitStack) -> Callable[[], Run]:
    made = index.make_photos(folder / f"{photos}", photos)
    # As on a CPU, see configs/devices/cpu.yaml: a batch of the default size takes as long as all the photos.
    return lambda: alone("index-ours", made, photos, "eval.batch_size=16", *overrides)


def _load(folder: Path, workers: int, _: list[str], __: contextlib.ExitStack) -> Callable[[], Run]:
    root = folder / "data"
    if not root.exists():
        input._draw_data(root, _TRAINED)
    return lambda: alone("input-ours", root, _TRAINED, workers, "-")


def _standing(job: str, key: str) -> Callable[..., Callable[[], Run]]:
    """Return the `runs` of a job that stays and takes its size as a config value."""

    def runs(_: Path, size: int, overrides: list[str], stack: contextlib.ExitStack) -> Callable[[], Run]:
        standby = stack.enter_context(Standby(job, "-", f"{key}={size}", *overrides))
        for _ in range(1 + _WARM_UP):
            standby.work("step")
        return lambda: standby.work("step")

    return runs


def _encode(_: str, *overrides: str) -> Run:
    encoder = random_encoder(load_config(None, list(overrides)))
    batch = np.random.default_rng(1).standard_normal(
        (encoder.config.eval.batch_size, 3, *encoder.config.model.image_size), np.float32
    )
    return stand_by({"step": lambda: encoder.pixels(batch)})


def _convert(folder: Path, mebibytes: int, _: list[str], __: contextlib.ExitStack) -> Callable[[], Run]:
    """Convert a float16 file of the model of this size."""
    file = folder / f"{mebibytes}.safetensors"
    write_safetensors(file, list(_random_entries(_MODELS[mebibytes])))
    return lambda: alone("convert-ours", file, folder / "out.ckpt")


def _random_entries(architecture: str) -> Iterator[Entry]:
    half, rng = dtype_of("float16"), np.random.default_rng(1)
    for name, shape in clip_shapes(ARCHITECTURES[architecture], 77, 14 * 14).items():
        values = rng.standard_normal(math.prod(shape), np.float32).reshape(shape).astype(half)
        yield Entry.of(name, values)


_INPUT = _TRAINED * 2 * 3 * math.prod(input.SIZE) * (1 + 4)  # bytes of pixels read, and float32 written
_MODELS = {15: "small", 285: "ViT-B/16", 813: "ViT-L/14"}
_CORES = os.cpu_count() or 1
WORKS = {
    "search": Work("photos", (10_000, 1_000_000, 10_000_000), _search, lambda photos, _: (0, photos * search.DIM * 2)),
    "index": Work("photos", (16, 48, 144), _index, lambda photos, model: (photos * picture_operations(model), 0)),
    "evaluation": Work(
        "photos", (1000, 4000, 20_000), _evaluate, lambda photos, _: (2 * _QUERIES * photos * evaluation.DIM, 0)
    ),
    "input": Work("workers", tuple(sorted({1, max(1, _CORES // 2), _CORES})), _load, lambda *_: (0, _INPUT)),
    "step": Work(
        "pairs",
        (2, 4, 8),
        _standing("step-ours", "data.batch_size"),
        lambda pairs, model: (pairs * pair_operations(model), 0),
    ),
    "encode": Work(
        "pictures",
        (4, 8, 16),
        _standing("standing-encode", "eval.batch_size"),
        lambda pictures, model: (pictures * picture_operations(model), 0),
    ),
    # Half-precision values are read, and written in float32.
    "conversion": Work("MiB", tuple(_MODELS), _convert, lambda mebibytes, _: (0, 3 * mebibytes * MIB)),
}
JOBS = {"standing-encode": _encode}
