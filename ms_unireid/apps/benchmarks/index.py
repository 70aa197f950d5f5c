"""Photos a second into an index, beside the bare model on pictures that are in memory already.

python tools/benchmark.py index --photos 256 --rounds 5 --json index.json
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ms_unireid.apps.benchmarks.runs import MIB, Run, in_turns, measured, spread, summary
from ms_unireid.runtime import describe

# Of the pictures in the three data sets, whose sizes vary; height and width.
PHOTO_SIZE = (400, 160)
QUALITY = 90


def add_command(commands: Any) -> None:
    """Add the sub-command's options."""
    parser = commands.add_parser("index", help="photos a second into an index, beside the bare model")
    parser.add_argument("--photos", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the measurements as JSON")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="change a value of the config")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure making an index of JPEG files, and the model alone on as many pictures."""
    with tempfile.TemporaryDirectory() as folder:
        photos = make_photos(Path(folder) / "photos", options.photos)
        jobs = {name: (f"index-{name}", photos, options.photos, *options.overrides) for name in ("ours", "bare")}
        runs = in_turns(jobs, options.rounds, "index")
    pairs = list(zip(runs["ours"], runs["bare"], strict=True))
    return {
        "what": f"{options.photos} JPEG photos of {PHOTO_SIZE[1]}x{PHOTO_SIZE[0]} into an index",
        "config": list(options.overrides),
        "rounds": options.rounds,
        "photos_per_second": {
            name: summary([options.photos / run["seconds"] for run in done]) for name, done in runs.items()
        },
        "throughput_of_the_bare_model": summary([bare["seconds"] / ours["seconds"] for ours, bare in pairs]),
        "peak_bytes": {name: summary([run["peak_bytes"] for run in done]) for name, done in runs.items()},
        "machine": describe("CPU"),
    }


def to_text(result: dict[str, Any]) -> str:
    """Lay out the measurements for a terminal."""
    lines = [f"{result['what']}; {result['rounds']} rounds, median [least..most]"]
    for name, speed in result["photos_per_second"].items():
        peak = result["peak_bytes"][name]["median"] / MIB
        lines.append(f"{name}: {spread(speed)} photos a second, {peak:.0f} MiB at the peak")
    share = spread(result["throughput_of_the_bare_model"])
    return "\n".join([*lines, f"throughput, as a share of the bare model's: {share}"])


def make_photos(folder: Path, count: int) -> Path:
    """Write JPEG files that are as hard to decode as photos: smooth patches with noise."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    for number in tqdm(range(count), desc="photos", unit="photo"):
        coarse = Image.fromarray(rng.integers(0, 256, (20, 8, 3), np.uint8)).resize(PHOTO_SIZE[::-1])
        noisy = np.asarray(coarse, np.int16) + rng.integers(-12, 13, (*PHOTO_SIZE, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number:06d}.jpg", quality=QUALITY)
    return folder


def _extractor(overrides: tuple[str, ...]):
    from ms_unireid.config import load_config
    from ms_unireid.evaluation.encoder import Encoder
    from ms_unireid.models.unireid import build_model
    from ms_unireid.runtime import prepare

    config = load_config(None, list(overrides))
    prepare(config.runtime)
    return Encoder(build_model(config.model, 1, config.runtime), config)


def _batches(extractor, count: int) -> list[np.ndarray]:
    size = extractor.config.eval.batch_size
    rng = np.random.default_rng(1)
    one = rng.standard_normal((size, 3, *extractor.config.model.image_size), np.float32)
    return [one] * -(-count // size)


def _encode(extractor, batches: list[np.ndarray]) -> None:
    from mindspore import Tensor

    for batch in batches:
        extractor.image_encoder(Tensor(batch)).asnumpy()


def _bare(photos: str, count: str, *overrides: str) -> Run:
    extractor = _extractor(overrides)
    batches = _batches(extractor, int(count))
    _encode(extractor, batches[:1])  # compiles
    return measured(lambda: _encode(extractor, batches))


def _index(photos: str, count: str, *overrides: str) -> Run:
    from ms_unireid.apps.search.indexing import describe_model, photo_source, update_index

    extractor = _extractor(overrides)
    _encode(extractor, _batches(extractor, 1))
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "model.ckpt"
        checkpoint.touch()
        about = describe_model(checkpoint, extractor.config, "float16")
        index = Path(folder) / "index"
        return measured(lambda: update_index(index, about, extractor, [photo_source(Path(photos))]))


JOBS = {"index-ours": _index, "index-bare": _bare}
