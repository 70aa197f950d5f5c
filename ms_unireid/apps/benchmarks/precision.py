"""The image encoder in MindSpore and onnxruntime, in float32, bfloat16 and int8: speed on one core and accuracy.

python tools/benchmark.py precision --checkpoint runs/cuhk/best_average.ckpt --root DIR --json precision.json
"""

import argparse
import dataclasses
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ms_unireid.apps.arguments import at_least, checkpoint, input_folder
from ms_unireid.apps.benchmarks.runs import Run, alone, in_turns, measured, ratio, spread
from ms_unireid.apps.export.specification import ExportOptions
from ms_unireid.runtime import describe

# MindSpore in float32 and with products in bfloat16, then onnxruntime.
KINDS = ("mindspore", "bfloat16", "float32", "int8")
_EXPORTED = KINDS[2:]
_BFLOAT16 = {"ONEDNN_DEFAULT_FPMATH_MODE": "BF16"}
_CLOCKS = ("seconds", "cpu_seconds")
_Encode = Callable[[np.ndarray], np.ndarray]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sub-command."""
    parser.add_argument("--checkpoint", type=checkpoint, help="a trained model (default: ViT-B/16 with random weights)")
    parser.add_argument(
        "--root", type=input_folder, help="folder of the data set to compare accuracy on (default: no comparison)"
    )
    parser.add_argument("--split", default="test", choices=("train", "val", "test"))
    parser.add_argument("--batch", type=at_least(1), default=16, help="pictures encoded at once")
    parser.add_argument("--rounds", type=at_least(1), default=5)
    parser.add_argument("--core", type=at_least(0), default=0, help="core of every run, which has one thread")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Export both precisions, time all kinds alternately, and compare features and accuracy on a data set if given."""
    from ms_unireid.apps.export.exporting import export_checkpoint

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = options.checkpoint or _random_checkpoint(folder / "random.ckpt")
        descriptions = {
            precision: export_checkpoint(checkpoint, folder / precision, ExportOptions(("onnx",), precision))
            for precision in _EXPORTED
        }
        jobs = {
            kind: ("encode-precision", kind, checkpoint, folder / kind, options.batch, options.core) for kind in KINDS
        }
        runs = in_turns(jobs, options.rounds, "encoding")
        accuracy = _accuracy(checkpoint, folder, options.root, options.split) if options.root else {}
    model = descriptions["float32"]["model"]
    return {
        "what": f"image encoder, {model['architecture']} at {list(model['image_size'])}",
        "checkpoint": str(options.checkpoint or "random weights"),
        "batch": options.batch,
        "rounds": options.rounds,
        "times": {kind: {clock: ratio(runs[kind], runs[KINDS[0]], clock) for clock in _CLOCKS} for kind in KINDS},
        "files": {precision: description["files"] for precision, description in descriptions.items()},
        **accuracy,
        "machine": describe("CPU"),
    }


def to_text(result: dict[str, Any]) -> str:
    """Format the measurements as text."""
    lines = [f"{result['what']}, batch {result['batch']}, one core, {result['rounds']} rounds, median [min..max]"]
    for kind, times in result["times"].items():
        by_clock = ", in CPU time ".join(spread(times[clock]) for clock in _CLOCKS)
        lines.append(f"  {kind:<10} time over MindSpore's: {by_clock}")
    for precision, files in result["files"].items():
        for name, file in files.items():
            size = f"{file['bytes'] / 2**20:.0f} MiB"
            lines.append(f"  {precision:<10} {name}: {size}, smallest cosine {file['least_cosine']:.5f} on the samples")
    for kind, cosines in result.get("cosine", {}).items():
        values = f"mean {cosines['mean']:.6f}, smallest {cosines['min']:.6f}"
        lines.append(f"  {kind:<10} cosine with MindSpore's features of {result['split']}: {values}")
    for name in ("R1", "mAP"):
        for row, scores in result.get(name, {}).items():
            lines.append(f"  {name} {row}: " + ", ".join(f"{kind} {score:.2f}" for kind, score in scores.items()))
    return "\n".join(lines)


def encode(kind: str, checkpoint: str, folder: str, batch: str, core: str) -> Run:
    """Encode a batch of random pictures on one core, after one run that is not measured."""
    os.sched_setaffinity(0, {int(core)})
    os.environ["OMP_NUM_THREADS"] = "1"
    if kind == "bfloat16":
        os.environ.update(_BFLOAT16)
    encode_images, (height, width) = _exported(Path(folder)) if kind in _EXPORTED else _mindspore(checkpoint)
    images = np.random.default_rng(1).standard_normal((int(batch), 3, height, width), dtype=np.float32)
    encode_images(images)
    return measured(lambda: encode_images(images))


def _mindspore(checkpoint: str) -> tuple[_Encode, tuple[int, int]]:
    encoder = _encoder(Path(checkpoint))
    return encoder.pixels, encoder.config.model.image_size


def _exported(folder: Path) -> tuple[_Encode, tuple[int, int]]:
    from ms_unireid.apps.export.runner import open_exported
    from ms_unireid.apps.export.specification import FILE_NAME

    run = open_exported(folder / "image_encoder.onnx", threads=1)
    description = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
    return lambda images: run({"images": images})[0], tuple(description["model"]["image_size"])


def _random_checkpoint(path: Path) -> Path:
    from ms_unireid.checkpoints.checkpoint import save_checkpoint
    from ms_unireid.config import load_config, to_dict
    from ms_unireid.models.unireid import build_model

    config = load_config(None)
    save_checkpoint(path, build_model(config.model).get_parameters(), {"config": to_dict(config)})
    return path


class _ExportedEncoder:
    """An exported file in place of one of the encoders of `Encoder`."""

    def __init__(self, file: Path, name: str, columns: int):
        from ms_unireid.apps.export.runner import open_exported

        self.run, self.name, self.columns = open_exported(file), name, columns

    def __call__(self, rows: Any) -> Any:
        """Encode a batch; captions that were cut get their padding back."""
        from mindspore import Tensor

        missing = self.columns - rows.shape[-1]
        padded = np.pad(rows.asnumpy(), (*[(0, 0)] * (rows.ndim - 1), (0, missing)))
        return Tensor(self.run({self.name: padded})[0])


def _accuracy(checkpoint: Path, folder: Path, root: str, split: str) -> dict[str, Any]:
    """Encode and evaluate a split with each kind; cosines are with MindSpore's features in float32."""
    from ms_unireid.evaluation.evaluator import evaluate_features
    from ms_unireid.evaluation.similarity import normalize_rows

    encoder, data = _split(checkpoint, root, split)
    model, feats = encoder.config.model, {KINDS[0]: encoder.encode(data)}
    alone("encode-bfloat16", checkpoint, root, split, folder / "bfloat16.npz")
    with np.load(folder / "bfloat16.npz") as found:
        feats["bfloat16"] = dataclasses.replace(feats[KINDS[0]], **found)
    for kind in _EXPORTED:
        encoder.image_encoder = _ExportedEncoder(folder / kind / "image_encoder.onnx", "images", model.image_size[1])
        encoder.text_encoder = _ExportedEncoder(folder / kind / "text_encoder.onnx", "token_ids", model.context_length)
        feats[kind] = encoder.encode(data)
    rows = {kind: evaluate_features(found, "all", encoder.config.eval) for kind, found in feats.items()}
    joined = {k: normalize_rows(np.concatenate([f.photo, f.sketch, f.text])) for k, f in feats.items()}
    cosines = {kind: (joined[kind] * joined[KINDS[0]]).sum(1) for kind in KINDS[1:]}
    return {
        "split": f"{encoder.config.data.name} {split}",
        "cosine": {kind: {"mean": float(c.mean()), "min": float(c.min())} for kind, c in cosines.items()},
        "R1": {f"{task} {rule}": {kind: rows[kind][task, rule].R1 for kind in KINDS} for task, rule in rows[KINDS[0]]},
        "mAP": {
            f"{task} {rule}": {kind: rows[kind][task, rule].mAP for kind in KINDS} for task, rule in rows[KINDS[0]]
        },
    }


def encode_in_bfloat16(checkpoint: str, root: str, split: str, file: str) -> Run:
    """Save a split's features; needs its own process, because oneDNN reads its variable once."""
    os.environ.update(_BFLOAT16)
    encoder, data = _split(Path(checkpoint), root, split)
    feats = encoder.encode(data)
    np.savez(file, photo=feats.photo, sketch=feats.sketch, text=feats.text)
    return {}


def _split(checkpoint: Path, root: str, split: str) -> tuple[Any, Any]:
    """Return the encoder of a checkpoint and a split of the data set."""
    from ms_unireid.data.evaluation_sets import load_evaluation_set

    encoder = _encoder(checkpoint, f"data.root={root}")
    return encoder, load_evaluation_set(encoder.config.data, split)


def _encoder(checkpoint: Path, *overrides: str) -> Any:
    from ms_unireid.checkpoints.checkpoint import open_model
    from ms_unireid.evaluation.encoder import Encoder

    model, config, _ = open_model(checkpoint, ["runtime.device=CPU", *overrides])
    return Encoder(model, config)


JOBS = {"encode-precision": encode, "encode-bfloat16": encode_in_bfloat16}
