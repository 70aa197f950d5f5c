"""Converting a ViT-B/16 of random weights, beside torch.load and mindspore.save_checkpoint.

python tools/benchmark.py conversion --rounds 5 --json conversion.json
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ms_unireid.apps.benchmarks.runs import MIB, alone, measured, spread, summary
from ms_unireid.config_schema import ARCHITECTURES
from ms_unireid.runtime import describe


def add_command(commands: Any) -> None:
    """Add the sub-command's options."""
    parser = commands.add_parser(
        "conversion", help="converting a ViT-B/16 of random weights, beside torch.load and mindspore.save_checkpoint"
    )
    parser.add_argument("--source", choices=("archive", "state-dict"), default="archive", help="of float16 tensors")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the measurements as JSON")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Convert by both ways, in turns."""
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


def to_text(result: dict[str, Any]) -> str:
    """Lay out the measurements for a terminal."""
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


def convert_ours(file: str, output: str) -> dict[str, float]:
    """Convert by ours."""
    from ms_unireid.checkpoints.conversion import Options, convert

    return measured(lambda: convert(Path(file), Path(output), Options()))


def convert_baseline(file: str, output: str) -> dict[str, float]:
    """Load by PyTorch, save by MindSpore."""
    import mindspore as ms
    import torch

    def work() -> None:
        try:
            tensors = torch.load(file, map_location="cpu", weights_only=True)
        except RuntimeError:  # a TorchScript archive, which is ours: running what it holds is safe
            tensors = torch.jit.load(file, map_location="cpu").state_dict()
        pairs = [{"name": name, "data": ms.Tensor(value.float().numpy())} for name, value in tensors.items()]
        ms.save_checkpoint(pairs, output)

    return measured(work)


def random_state() -> dict[str, Any]:
    """Make a state dict of a CLIP."""
    import torch

    from ms_unireid.checkpoints.clip_names import clip_shapes

    generator = torch.Generator().manual_seed(1)
    shapes = clip_shapes(ARCHITECTURES["ViT-B/16"], 77, 14 * 14)
    return {name: torch.randn(shape, generator=generator).half() for name, shape in shapes.items()}


def make_state_dict(file: str) -> dict[str, float]:
    """Save it as PyTorch does."""
    import torch

    return measured(lambda: torch.save(random_state(), file))


def make_archive(file: str) -> dict[str, float]:
    """Save it as a TorchScript archive, OpenAI's form."""
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
