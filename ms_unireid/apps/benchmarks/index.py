"""Photos indexed per second, compared with the bare model on pictures in memory.

python tools/benchmark.py index --photos 256 --rounds 5 --json index.json
"""

import argparse
import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
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
    picture_operations,
    random_encoder,
    ratio,
    spread,
    summary,
    table,
)
from ms_unireid.config import load_config

# Height and width, typical of the three data sets.
PHOTO_SIZE = (400, 160)
QUALITY = 90


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sub-command."""
    parser.add_argument("--photos", type=at_least(1), default=256)
    parser.add_argument("--rounds", type=at_least(1), default=5)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="change a value of the config")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Index JPEG files, and encode as many pictures with the model alone."""
    with tempfile.TemporaryDirectory() as folder:
        photos = make_photos(Path(folder) / "photos", options.photos)
        jobs = {name: (f"index-{name}", photos, options.photos, *options.overrides) for name in ("ours", "bare")}
        runs = in_turns(jobs, options.rounds, "index")
    return {
        "what": f"{options.photos} JPEG photos of {PHOTO_SIZE[1]}x{PHOTO_SIZE[0]} into an index",
        "config": list(options.overrides),
        "operations": picture_operations(load_config(None, options.overrides).model),
        "rounds": options.rounds,
        "photos_per_second": {
            name: summary([options.photos / run["seconds"] for run in done]) for name, done in runs.items()
        },
        "throughput_of_the_bare_model": ratio(runs["bare"], runs["ours"]),
        "peak_bytes": {name: figure(done, "peak_bytes") for name, done in runs.items()},
        "machine": machine(),
    }


def to_text(result: dict[str, Any]) -> str:
    """Format the measurements as text."""
    shares = {"ours": spread(result["throughput_of_the_bare_model"]), "bare": ""}
    most = f"{1 / limit(result, result['operations']):.1f}"
    rows = [
        (name, spread(speed), shares[name], f"{result['peak_bytes'][name]['median'] / MIB:,.0f}", most)
        for name, speed in result["photos_per_second"].items()
    ]
    return f"{result['what']}; {result['rounds']} rounds, median [min..max]\n\n" + table(
        rows, "way", "photos a second", "share of the bare model's", "peak MiB", "limit, photos a second"
    )


def make_photos(folder: Path, count: int) -> Path:
    """Write JPEG files of smooth patches with noise, which take as long to decode as photos."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    for number in tqdm(range(count), desc="photos", unit="photo"):
        coarse = Image.fromarray(rng.integers(0, 256, (20, 8, 3), np.uint8)).resize(PHOTO_SIZE[::-1])
        noisy = np.asarray(coarse, np.int16) + rng.integers(-12, 13, (*PHOTO_SIZE, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number:06d}.jpg", quality=QUALITY)
    return folder


def _batches(encoder: Any, count: int) -> list[np.ndarray]:
    size = encoder.config.eval.batch_size
    rng = np.random.default_rng(1)
    one = rng.standard_normal((size, 3, *encoder.config.model.image_size), np.float32)
    return [one] * -(-count // size)


def _encode(encoder: Any, batches: list[np.ndarray]) -> None:
    for batch in batches:
        encoder.pixels(batch)


def _bare(photos: str, count: str, *overrides: str) -> Run:
    encoder = random_encoder(load_config(None, list(overrides)))
    batches = _batches(encoder, int(count))
    _encode(encoder, batches[:1])  # compiles
    return measured(lambda: _encode(encoder, batches))


def _index(photos: str, count: str, *overrides: str) -> Run:
    from ms_unireid.apps.search.encoding import encode_together
    from ms_unireid.apps.search.indexing import describe_model, photo_source, update_index

    encoder = random_encoder(load_config(None, list(overrides)))
    _encode(encoder, _batches(encoder, 1))
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "model.ckpt"
        checkpoint.touch()
        about = describe_model(checkpoint, encoder.config, "float16")
        index = Path(folder) / "index"
        encode = functools.partial(encode_together, encoder, index)
        return measured(lambda: update_index(index, about, encode, [photo_source(Path(photos))]))


JOBS = {"index-ours": _index, "index-bare": _bare}
