"""Batches of training pairs, with and without the cache of decoded pictures, compared with a single-threaded loop.

python tools/benchmark.py input --root FOLDER --rounds 5 --json input.json

The time that holds Python's lock is not measured here. py-spy reads it from outside: the number of samples in its file,
divided by 500, in seconds.

py-spy record --gil --rate 500 --format raw --output FILE -- \
    python -m ms_unireid.commands.main benchmark run-one input-ours FOLDER 2048 1 CACHE
"""

import argparse
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ms_unireid.apps.arguments import at_least, input_folder
from ms_unireid.apps.benchmarks.runs import (
    Run,
    alone,
    figure,
    in_turns,
    limit,
    machine,
    measured,
    ratio,
    spread,
    summary,
    table,
)
from ms_unireid.config import AugmentConfig, RuntimeConfig
from ms_unireid.data.annotations import Pair
from ms_unireid.data.decoded_cache import pixel_loader
from ms_unireid.data.tokenizer import Tokenizer
from ms_unireid.data.transforms import erase_rectangle, normalize

GIB = 1 << 30
SIZE, BATCH, SEED = (384, 128), 64, 1
PHOTO = (300, 800)  # width and height of the drawn photos
LEAST_BATCHES = 16
CORES = 16  # of the estimate
AUGMENT = AugmentConfig()
# The training split of CUHK-PEDES: a pair per caption; photos and sketches.
EPOCH_PAIRS, EPOCH_PICTURES = 68_126, 2 * 34_054
BASELINES = {
    "loop": "one thread: PIL opens, resizes, flips, pads and crops; numpy normalises, erases and stacks",
    "torch": "torch's DataLoader with as many worker processes and the same code",
}
STEP_KINDS = {"busy": "a step that takes every core", "waiting": "a step that leaves the cores alone, as on a device"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sub-command."""
    parser.add_argument(
        "--root", type=input_folder, help="folder of CUHK-PEDES or a part of it (default: drawn pictures)"
    )
    parser.add_argument("--pairs", type=at_least(1), default=512, help="pairs per run")
    parser.add_argument("--workers", type=at_least(1), nargs="+", default=[1, 2, 4], help="at most one a core is used")
    parser.add_argument("--rounds", type=at_least(1), default=3)
    parser.add_argument("--step-seconds", type=float, nargs="+", default=[1.0, 4.0], help=f"of steps of {BATCH} pairs")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Make the same batches in every way alternately."""
    with tempfile.TemporaryDirectory() as folder:
        root = options.root or _draw_data(Path(folder) / "data", options.pairs)
        return _measure(root, Path(folder) / "cache", options)


def _measure(root: Path, cache: Path, options: argparse.Namespace) -> dict[str, Any]:
    workers = sorted({1, *(min(count, os.cpu_count() or 1) for count in options.workers)})
    sample, ways = (root, options.pairs, workers[-1]), {"decoded": "-", "cached": cache}
    filled, checked = alone("input-fill", *sample, cache), alone("input-check", *sample, cache)
    jobs = {
        f"{name}, workers={count}": ("input-ours", root, options.pairs, count, where)
        for count in workers
        for name, where in ways.items()
    }
    jobs |= {name: (f"input-{name}", *sample) for name in BASELINES if name != "torch" or _has_torch()}
    runs = in_turns(jobs, options.rounds, "input")
    pairs = checked["pairs"]
    seconds = {name: figure(found)["median"] / pairs for name, found in runs.items()}
    steps = {
        f"{kind} {seconds:g} s, {name}": ("input-step", *sample, where, kind, seconds)
        for kind in STEP_KINDS
        for seconds in options.step_seconds
        for name, where in ways.items()
    }
    return {
        "what": f"batches of {BATCH} pairs at {SIZE[0]}x{SIZE[1]} from {pairs} pairs of "
        f"{'the folder given' if options.root else 'drawn pictures, photos of {}x{} as JPEG'.format(*PHOTO)}",
        "baselines": {name: BASELINES[name] for name in jobs if name in BASELINES},
        "rounds": options.rounds,
        "pairs_per_second": {name: summary([pairs / run["seconds"] for run in found]) for name, found in runs.items()},
        "times_as_fast_as_the_loop": {
            name: ratio(runs["loop"], found) for name, found in runs.items() if name != "loop"
        },
        "cpu_milliseconds_per_pair": {
            name: summary([1000 * run["cpu_seconds"] / pairs for run in found])
            for name, found in runs.items()
            if name != "torch"  # the process does not see its workers' time
        },
        "epoch_seconds": {
            name: summary([EPOCH_PAIRS * run["seconds"] / pairs for run in found]) for name, found in runs.items()
        },
        f"estimated_pairs_per_second_of_{CORES}_cores": {
            name: _estimate(*(seconds[f"{name}, workers={count}"] for count in (1, workers[-1])), workers[-1])
            for name in ways
            if len(workers) > 1
        },
        "caption_milliseconds": checked["caption_milliseconds"],
        "step_with_input_to_constant_batch": {
            name: figure(found, "ratio") for name, found in in_turns(steps, options.rounds, "steps").items()
        },
        "cache": {
            "gib": EPOCH_PICTURES * SIZE[0] * SIZE[1] * 3 / GIB,
            "fill_seconds": EPOCH_PICTURES * filled["seconds"] / filled["pictures"],
        },
        "pixels": checked,
        "machine": machine(),
    }


def _estimate(single: float, together: float, workers: int) -> float:
    """Estimate pairs a second of many cores from a pair's seconds with one worker and several, by Amdahl's law.

    The share that does not run beside others is Karp and Flatt's; it holds the lock's share and other cores' influence.
    """
    serial = max(0.0, (together / single - 1 / workers) / (1 - 1 / workers))
    return 1 / (single * (serial + (1 - serial) / CORES))


def to_text(result: dict[str, Any]) -> str:
    """Format the measurements as text."""
    # A pair is two pictures, read as bytes and written as float32.
    most = f"{1 / limit(result, moved=2 * 3 * math.prod(SIZE) * (1 + 4)):,.0f}"
    faster, spent = result["times_as_fast_as_the_loop"], result["cpu_milliseconds_per_pair"]
    rows = [
        (
            result["baselines"].get(name, name),
            spread(speed),
            spread(faster[name]) if name in faster else "",
            spread(spent[name]) if name in spent else "",
            spread(result["epoch_seconds"][name]),
            most,
        )
        for name, speed in result["pairs_per_second"].items()
    ]
    rows += [
        (f"{name}, {CORES} cores, an estimate by Amdahl's law", f"{speed:.0f}", "", "", "", "")
        for name, speed in result[f"estimated_pairs_per_second_of_{CORES}_cores"].items()
    ]
    steps = result["step_with_input_to_constant_batch"].items()
    cache, pixels = result["cache"], result["pixels"]
    times = ("times as fast as the loop", "ms of CPU a pair", f"seconds for {EPOCH_PAIRS:,} pairs")
    return "\n\n".join(
        [
            f"{result['what']}; {result['rounds']} rounds, median [min..max]",
            table(rows, "way", "pairs a second", *times, "limit, pairs a second"),
            table([(name, spread(values)) for name, values in steps], "step", "with input / with a constant batch"),
            f"The cache of {EPOCH_PICTURES:,} pictures takes {cache['gib']:.2f} GiB and {cache['fill_seconds']:.0f} s; "
            f"a caption's tokens {result['caption_milliseconds']:.3f} ms of CPU, once a run. "
            f"Pictures checked: {pixels['pictures']:.0f}, {pixels['different_pictures']:.0f} differ from PIL's; "
            f"batches that differ: {pixels['different_batches']:.0f}.",
        ]
    )


def _draw_data(root: Path, pairs: int) -> Path:
    """Draw a data set, its photos as large as a camera's cut-outs."""
    from ms_unireid.apps.synthetic.dataset import SyntheticConfig, generate_tri_dataset

    identities = max(2, -(-pairs // 8))
    generate_tri_dataset(root, SyntheticConfig(identities, 0, 1, photos_per_identity=4, captions_per_photo=2))
    for photo in (root / "CUHK-PEDES/imgs").rglob("*.png"):  # readers go by the content, not by the name
        with Image.open(photo) as small:
            large = small.convert("RGB").resize(PHOTO, Image.Resampling.BICUBIC)
        large.save(photo, "JPEG", quality=90)
    return root


def _has_torch() -> bool:
    import importlib.util

    return importlib.util.find_spec("torch") is not None


def _pairs(root: str, count: str) -> list[Pair]:
    from ms_unireid.data.annotations import training_pairs
    from ms_unireid.data.tri_pedes import read_tri_pedes

    found = read_tri_pedes("cuhk_pedes", Path(root)).annotations(["train"], allow_identity_gaps=True)["train"]
    return list(training_pairs(found)[: int(count)])


def _order(pairs: list[Pair]) -> list[np.ndarray]:
    """Return at least `LEAST_BATCHES` whole batches of shuffled pairs, by repeating epochs."""
    rng, order = np.random.default_rng(SEED), np.zeros(0, int)
    while len(order) < max(len(pairs), LEAST_BATCHES * BATCH):
        order = np.concatenate([order, rng.permutation(len(pairs))])
    return [order[start : start + BATCH] for start in range(0, len(order) - BATCH + 1, BATCH)]


def _runtime(workers: str, cache: str) -> RuntimeConfig:
    return RuntimeConfig(workers=int(workers), decoded_cache=None if cache == "-" else cache)


def _source(pairs: list[Pair], runtime: RuntimeConfig) -> Any:
    from ms_unireid.data.pipeline import TrainingSource
    from ms_unireid.data.transforms import TrainTransform

    paths = [path for pair in pairs for path in (pair.photo, *pair.pictures[0])]
    load = pixel_loader(runtime, SIZE, paths)
    token_ids = Tokenizer(77)([pair.caption for pair in pairs])
    return TrainingSource(pairs, _order(pairs), TrainTransform(SIZE, AUGMENT), token_ids, SEED, 1, load=load)


def fill(root: str, count: str, workers: str, cache: str) -> Run:
    """Decode the pictures of a sample into the cache."""
    pairs = _pairs(root, count)
    paths = {path for pair in pairs for path in (pair.photo, *pair.pictures[0])}
    return {**measured(lambda: pixel_loader(_runtime(workers, cache), SIZE, paths)), "pictures": len(paths)}


def check(root: str, count: str, workers: str, cache: str) -> Run:
    """Compare the cached pictures with PIL's, and batches with and without the cache."""
    pairs = _pairs(root, count)
    cached, decoded = (_source(pairs, _runtime(workers, where)) for where in (cache, "-"))
    paths = {path for pair in pairs for path in (pair.photo, *pair.pictures[0])}
    differing = (not np.array_equal(cached.load(path), np.asarray(_resized(path))) for path in paths)
    batches = (any(not np.array_equal(*two) for two in zip(cached[i], decoded[i], strict=True)) for i in range(2))
    order = sum(len(batch) for batch in cached.batches)
    tokenizer, start = Tokenizer(77), time.process_time()
    tokenizer([pair.caption for pair in pairs])
    caption_seconds = (time.process_time() - start) / len(pairs)
    return {
        "pairs": order,
        "pictures": len(paths),
        "different_pictures": sum(differing),
        "different_batches": sum(batches),
        "caption_milliseconds": 1000 * caption_seconds,
    }


def ours(root: str, count: str, workers: str, cache: str) -> Run:
    """Iterate over the batches of this project."""
    from ms_unireid.data.pipeline import iterate

    runtime = _runtime(workers, cache)
    source = _source(_pairs(root, count), runtime)
    return measured(lambda: [None for _ in iterate(source, runtime)])


def loop(root: str, count: str, workers: str) -> Run:
    """Iterate over the same pairs in one thread."""
    samples = _Samples(_pairs(root, count))
    return measured(lambda: [_stacked([samples[i] for i in batch]) for batch in samples.order] and None)


def torch_loader(root: str, count: str, workers: str) -> Run:
    """Iterate over the same pairs with torch's DataLoader."""
    from torch.utils.data import DataLoader

    samples = _Samples(_pairs(root, count))
    loader = DataLoader(samples, batch_sampler=[batch.tolist() for batch in samples.order], num_workers=int(workers))
    return measured(lambda: [None for _ in loader])


class _Samples:
    """A data set like the authors': one pair at a time, by PIL, with token ids."""

    def __init__(self, pairs: list[Pair]):
        self.pairs, self.order, self.tokenizer = pairs, _order(pairs), Tokenizer(77)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        pair, rng = self.pairs[number], np.random.default_rng((SEED, number))
        return _augmented(pair.photo, rng), _augmented(pair.pictures[0][0], rng), self.tokenizer([pair.caption])[0]


def _resized(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB").resize(SIZE[::-1], Image.Resampling.BILINEAR)


def _augmented(path: Path, rng: np.random.Generator) -> np.ndarray:
    picture = _resized(path)
    if rng.random() < AUGMENT.flip:
        picture = ImageOps.mirror(picture)
    top, left = rng.integers(0, 2 * AUGMENT.pad + 1, 2).tolist()
    picture = ImageOps.expand(picture, AUGMENT.pad).crop((left, top, left + SIZE[1], top + SIZE[0]))
    planes = np.zeros((4, *SIZE), np.uint8)
    planes[:3] = np.asarray(picture).transpose(2, 0, 1)
    if rng.random() < AUGMENT.erase:
        erase_rectangle(planes[3], rng)
    return normalize(planes)


def _stacked(samples: list[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    return tuple(np.stack(column) for column in zip(*samples, strict=True))


def step_time(root: str, count: str, workers: str, cache: str, kind: str, seconds: str) -> Run:
    """Compare the time of steps on batches made during the steps with that of steps on a constant batch."""
    from ms_unireid.data.pipeline import iterate

    runtime = _runtime(workers, cache)
    source = _source(_pairs(root, count), runtime)
    work = _busy(float(seconds)) if kind == "busy" else lambda: time.sleep(float(seconds))
    constant, batches = source[0], iterate(source, runtime)
    next(batches)  # every epoch starts with a wait for the first batch
    steps = len(source) - 1
    with_input = _timed(batches, work, steps)
    return {"ratio": with_input / _timed(iter([constant] * steps), work, steps), "seconds": with_input / steps}


def _timed(batches: Iterator[Any], work: Callable[[], None], steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        next(batches)
        work()
    return time.perf_counter() - start


def _busy(seconds: float) -> Callable[[], None]:
    """Return work on all cores that takes so many seconds when nothing else runs."""
    a, b = np.random.default_rng(SEED).standard_normal((2, 1024, 1024), np.float32)
    out = np.empty_like(a)

    def products(number: int) -> float:
        start = time.perf_counter()
        for _ in range(number):
            np.dot(a, b, out=out)
        return time.perf_counter() - start

    products(3)
    number = max(1, round(seconds / (products(10) / 10)))
    return lambda: products(number) and None


JOBS = {
    "input-fill": fill,
    "input-check": check,
    "input-ours": ours,
    "input-loop": loop,
    "input-torch": torch_loader,
    "input-step": step_time,
}
