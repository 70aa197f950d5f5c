"""Conversion of a ViT-B/16 with random weights, compared with torch.load and mindspore.save_checkpoint.

python tools/benchmark.py conversion --rounds 5 --json conversion.json
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ms_unireid.apps.arguments import at_least
from ms_unireid.apps.benchmarks.runs import MIB, alone, figure, measured, ratio, spread, summary
from ms_unireid.config import ModelConfig
from ms_unireid.runtime import describe


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sub-command."""
    parser.add_argument("--source", choices=("archive", "state-dict"), default="archive", help="kind of float16 file")
    parser.add_argument("--rounds", type=at_least(1), default=5)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Convert with this project and with the baseline alternately."""
    with tempfile.TemporaryDirectory() as folder:
        return _measure(Path(folder), options.source, options.rounds)


def _measure(folder: Path, source: str, rounds: int) -> dict[str, Any]:
    file = folder / "clip.pt"
    alone("make-archive" if source == "archive" else "make-state-dict", file)
    size = file.stat().st_size
    jobs = {"ours": [file, folder / "ours.ckpt"], "baseline": [file, folder / "theirs.ckpt"]}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in jobs}
    for _ in tqdm(range(rounds), unit="round"):
        for name, (source_file, output) in jobs.items():
            runs[name].append(alone(f"convert-{name}", source_file, output))
            output.unlink()  # overwriting a file would be faster than making one
    return {
        "what": f"conversion of a float16 ViT-B/16 {source} of {size / MIB:.0f} MiB to a float32 .ckpt",
        "baseline": "torch.load (torch.jit.load of an archive) and mindspore.save_checkpoint",
        "ratio": ratio(runs["ours"], runs["baseline"]),
        "seconds": {name: figure(found) for name, found in runs.items()},
        "peak_memory_per_file_size": {
            name: summary([one["peak_bytes"] / size for one in found]) for name, found in runs.items()
        },
        "rounds": rounds,
        "machine": describe("CPU"),
    }


def to_text(result: dict[str, Any]) -> str:
    """Format the measurements as text."""
    ours, theirs = (result["peak_memory_per_file_size"][name] for name in ("ours", "baseline"))
    seconds = result["seconds"]
    return "\n".join(
        [
            f"{result['what']}; {result['rounds']} rounds, median [min..max]",
            f"time, ours / {result['baseline']}: {spread(result['ratio'])}",
            f"seconds: ours {spread(seconds['ours'])}, baseline {spread(seconds['baseline'])}",
            f"peak memory of the process / file: ours {spread(ours)}, baseline {spread(theirs)}",
        ]
    )


def convert_ours(file: str, output: str) -> dict[str, float]:
    """Convert with this project."""
    from ms_unireid.checkpoints.conversion import Options, convert

    return measured(lambda: convert(Path(file), Path(output), Options()))


def convert_baseline(file: str, output: str) -> dict[str, float]:
    """Load with PyTorch and save with MindSpore."""
    import mindspore as ms
    import torch

    def work() -> None:
        try:
            tensors = torch.load(file, map_location="cpu", weights_only=True)
        except RuntimeError:  # a TorchScript archive; this benchmark wrote it, so it is safe to run
            tensors = torch.jit.load(file, map_location="cpu").state_dict()
        pairs = [{"name": name, "data": ms.Tensor(value.float().numpy())} for name, value in tensors.items()]
        ms.save_checkpoint(pairs, output)

    return measured(work)


def random_state() -> dict[str, Any]:
    """Draw the state dict of a CLIP ViT-B/16, float16."""
    import torch

    from ms_unireid.checkpoints.clip_names import clip_shapes

    generator = torch.Generator().manual_seed(1)
    shapes = clip_shapes(ModelConfig().sizes, 77, 14 * 14)
    return {name: torch.randn(shape, generator=generator).half() for name, shape in shapes.items()}


def make_state_dict(file: str) -> dict[str, float]:
    """Write the state dict as PyTorch does."""
    import torch

    return measured(lambda: torch.save(random_state(), file))


def make_archive(file: str) -> dict[str, float]:
    """Write it as a TorchScript archive, the form of OpenAI's checkpoints."""
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
    return measured(lambda: torch.jit.save(torch.jit.script(root), file))


JOBS = {
    "make-archive": make_archive,
    "make-state-dict": make_state_dict,
    "convert-ours": convert_ours,
    "convert-baseline": convert_baseline,
}
