"""Measure against PyTorch or the naive way: both in the same call, in turns, each run in a process of its own.

`sketches` has nothing to be measured against: it tells speed and memory.

python tools/benchmark.py conversion --rounds 5 --json conversion.json
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tqdm import tqdm

from ms_unireid.architectures import ARCHITECTURES
from ms_unireid.command_line import run
from ms_unireid.files import write_json
from ms_unireid.runtime import check_packages, describe

MIB = 1 << 20


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure; ratios go to stdout. Less than 1 means that ours is faster.")
    commands = parser.add_subparsers(dest="command", required=True)
    conversion = commands.add_parser(
        "conversion", help="converting a ViT-B/16 of random weights, beside torch.load and mindspore.save_checkpoint"
    )
    conversion.add_argument("--source", choices=("archive", "state-dict"), default="archive", help="of float16 tensors")
    conversion.add_argument("--rounds", type=int, default=5)
    conversion.add_argument("--json", type=Path, help="write the measurements as JSON")
    add_sketches(commands)
    single = commands.add_parser("run-one", help="what the other commands call: one run, measured, as JSON")
    single.add_argument("job", choices=tuple(JOBS))
    single.add_argument("paths", type=Path, nargs="+")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments)
    if options.command == "run-one":
        print(json.dumps(JOBS[options.job](*options.paths)))
        return
    if options.command == "sketches":
        report_sketches(options)
        return
    check_packages()
    with tempfile.TemporaryDirectory() as folder:
        result = measure_conversion(Path(folder), options.source, options.rounds)
    print(to_text(result))
    if options.json:
        write_json(options.json, result)


def add_sketches(commands: Any) -> None:
    parser = commands.add_parser("sketches", help="drawing sketches: photos per second of one core, and memory")
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos; taken again and again")
    parser.add_argument("--count", type=int, default=500, help="photos to draw in all")
    parser.add_argument("--background", default="mediapipe")
    parser.add_argument("--style", default="pencil")
    parser.add_argument("--json", type=Path, help="write the measurements as JSON")


def report_sketches(options: argparse.Namespace) -> None:
    from ms_unireid.data.photo_sets import folder_photos
    from ms_unireid.sketch.recipe import make_recipe

    photos, recipe = folder_photos(options.photos), make_recipe(options.background, options.style)
    with tempfile.TemporaryDirectory() as folder:
        result = measure_sketches(Path(folder), [photos.folder / name for name in photos.names], recipe, options.count)
    print(
        f"{result['what']}: {result['photos_per_second_per_core']:.1f} photos per second of CPU time; peak memory "
        f"{result['peak_mib_after_a_tenth']:.0f} MiB after a tenth of them, {result['peak_mib']:.0f} MiB at the end"
    )
    if options.json:
        write_json(options.json, result)


def measure_sketches(folder: Path, photos: list[Path], recipe: Any, count: int) -> dict[str, Any]:
    """Draw `count` photos in this process through the same call as the tool, links standing for repeated ones."""
    from ms_unireid.sketch.artist import Artist
    from ms_unireid.sketch.build import build_sketches

    (folder / "photos").mkdir()
    names = [f"{i:06d}{photos[i % len(photos)].suffix}" for i in range(count)]
    for i, name in enumerate(names):
        (folder / "photos" / name).symlink_to(photos[i % len(photos)].resolve())
    Artist(recipe).prepare()  # once per process, however many photos follow
    peaks, start, bar = {}, time.process_time(), tqdm(total=count, unit="photo")

    def sample(done: int, total: int) -> None:
        bar.update()
        if done in (max(1, total // 10), total):
            peaks[done] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    report = build_sketches(folder / "photos", names, folder / "sketches", recipe, progress=sample)
    seconds = time.process_time() - start
    bar.close()
    return {
        "what": f"{count} sketches of size {list(recipe.size)}, background {recipe.background}, style {recipe.style}",
        "photos_per_second_per_core": count / seconds,
        "cpu_milliseconds_per_photo": 1000 * seconds / count,
        "peak_mib_after_a_tenth": peaks[max(1, count // 10)],
        "peak_mib": peaks[count],
        "failed": len(report.failures),
        "machine": describe("CPU"),
    }


def measure_conversion(folder: Path, source: str, rounds: int) -> dict[str, Any]:
    file = folder / "clip.pt"
    alone("make-archive" if source == "archive" else "make-state-dict", file)
    size = file.stat().st_size
    jobs = {"ours": [file, folder / "ours.ckpt"], "baseline": [file, folder / "theirs.ckpt"]}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in jobs}
    for _ in tqdm(range(rounds), unit="round"):
        for name, (source_file, output) in jobs.items():
            runs[name].append(alone(f"convert-{name}", source_file, output))
            output.unlink()  # the next one starts anew: to write over a file is faster than to make one
    ratios = [ours["seconds"] / theirs["seconds"] for ours, theirs in zip(runs["ours"], runs["baseline"], strict=True)]
    return {
        "what": f"conversion of a float16 ViT-B/16 {source} of {size / MIB:.0f} MiB to a float32 .ckpt",
        "baseline": "torch.load (torch.jit.load of an archive) and mindspore.save_checkpoint",
        "ratio": summary(ratios),
        "seconds": {name: summary([one["seconds"] for one in found]) for name, found in runs.items()},
        "peak_memory_per_file_size": {
            name: summary([one["peak_bytes"] / size for one in found]) for name, found in runs.items()
        },
        "rounds": rounds,
        "machine": describe("CPU"),
    }


def alone(job: str, *paths: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "run-one", job, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{job} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def summary(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def to_text(result: dict[str, Any]) -> str:
    def spread(values: dict[str, float], unit: str = "") -> str:
        return f"{values['median']:.2f}{unit} [{values['min']:.2f}..{values['max']:.2f}]"

    ours, theirs = (result["peak_memory_per_file_size"][name] for name in ("ours", "baseline"))
    seconds = result["seconds"]
    return "\n".join(
        [
            f"{result['what']}; {result['rounds']} rounds, median [least..most]",
            f"time, ours / {result['baseline']}: {spread(result['ratio'])}",
            f"seconds: ours {spread(seconds['ours'])}, baseline {spread(seconds['baseline'])}",
            f"peak memory of the process / file: ours {spread(ours)}, baseline {spread(theirs)}",
        ]
    )


def measured(work: Callable[[], None]) -> dict[str, float]:
    os.sync()  # nobody pays for what another wrote
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def convert_ours(file: Path, output: Path) -> dict[str, float]:
    from ms_unireid.conversion.convert import Options, convert

    return measured(lambda: convert(file, output, Options()))


def convert_baseline(file: Path, output: Path) -> dict[str, float]:
    import mindspore as ms
    import torch

    def work() -> None:
        try:
            tensors = torch.load(file, map_location="cpu", weights_only=True)
        except RuntimeError:  # a TorchScript archive, which is ours: running what it holds is safe
            tensors = torch.jit.load(file, map_location="cpu").state_dict()
        pairs = [{"name": name, "data": ms.Tensor(value.float().numpy())} for name, value in tensors.items()]
        ms.save_checkpoint(pairs, str(output))

    return measured(work)


def random_state() -> dict[str, Any]:
    import torch

    from ms_unireid.conversion.names import clip_shapes

    generator = torch.Generator().manual_seed(1)
    shapes = clip_shapes(ARCHITECTURES["ViT-B/16"], 77, 14 * 14)
    return {name: torch.randn(shape, generator=generator).half() for name, shape in shapes.items()}


def make_state_dict(file: Path) -> dict[str, float]:
    import torch

    return measured(lambda: torch.save(random_state(), file))


def make_archive(file: Path) -> dict[str, float]:
    import torch

    root = torch.nn.Module()
    for name, value in random_state().items():
        *folders, leaf = name.split(".")
        module = root
        for folder in folders:
            if not hasattr(module, folder):
                module.add_module(folder, torch.nn.Module())
            module = getattr(module, folder)
        module.register_parameter(leaf, torch.nn.Parameter(value, requires_grad=False))
    return measured(lambda: torch.jit.save(torch.jit.script(root), str(file)))


JOBS = {
    "make-archive": make_archive,
    "make-state-dict": make_state_dict,
    "convert-ours": convert_ours,
    "convert-baseline": convert_baseline,
}

if __name__ == "__main__":
    run(main)
