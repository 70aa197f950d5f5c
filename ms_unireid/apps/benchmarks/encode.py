"""The encoders and the evaluation of a test split, compared with PyTorch: ViT-B/16 with random weights.

python tools/benchmark.py encode --root FOLDER --rounds 5 --json encode.json
"""

import argparse
import contextlib
import functools
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ms_unireid.apps.arguments import at_least, input_folder
from ms_unireid.apps.benchmarks.runs import (
    WARM_UP,
    Run,
    Standby,
    figure,
    in_turns,
    limit,
    machine,
    measured,
    number,
    picture_operations,
    random_encoder,
    ratio,
    spread,
    stand_by,
    table,
    tower_operations,
    work_in_turns,
)
from ms_unireid.config import Config, load_config
from ms_unireid.data.evaluation_sets import EvaluationSet, load_evaluation_set
from ms_unireid.data.pictures import load_picture
from ms_unireid.data.tokenizer import Tokenizer
from ms_unireid.data.transforms import evaluation_transform

_PICTURES = 16
WORKS = {
    "image": f"encode_image of {_PICTURES} pictures",
    "text": "the split's captions, ours cut behind their ends, PyTorch's padded to the context length",
}
WARM_UPS = {"image": WARM_UP, "text": 0}  # a split of captions is many batches
BESIDE = {
    "ours_bf16": "encode-ours-bf16",
    "pytorch_bf16": "encode-pytorch-bf16",
    "openvino": "encode-openvino",
    "openvino_bf16": "encode-openvino-bf16",
    "onnxruntime_int8": "encode-onnxruntime-int8",
}
EVALUATION = "the split's evaluation from reading to scores, compilation included"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sub-command."""
    parser.add_argument(
        "--root", type=input_folder, required=True, help="folder of CUHK-PEDES; its test split is evaluated"
    )
    parser.add_argument("--rounds", type=at_least(1), default=5)
    parser.add_argument(
        "--evaluations", type=at_least(1), default=1, help="rounds of the evaluation, which take minutes"
    )
    parser.add_argument(
        "--threads", type=at_least(1), default=2, help="threads of PyTorch; MindSpore uses all cores it may run on"
    )
    parser.add_argument(
        "--beside",
        nargs="+",
        choices=tuple(BESIDE),
        default=[],
        help="who else encodes the pictures, beside ours and PyTorch in float32",
    )
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="change a value of the config")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Encode with both sides alternately, then evaluate."""
    arguments = [options.threads, f"data.root={options.root}", *options.overrides]
    runs: dict[str, dict[str, list[Run]]] = {}
    with contextlib.ExitStack() as stack:
        sides = {
            name: stack.enter_context(Standby(job, *arguments))
            for name, job in {"ours": "encode-ours", "pytorch": "encode-pytorch", **BESIDE}.items()
            if name in ("ours", "pytorch", *options.beside)
        }
        for work, warm_up in WARM_UPS.items():
            taking = sides if work == "image" else {name: sides[name] for name in ("ours", "pytorch")}
            first, runs[work] = work_in_turns(taking, work, warm_up, options.rounds)
            runs[work]["ours, the first"] = [first["ours"]]
    jobs = {side: (f"evaluate-split-{side}", *arguments) for side in ("ours", "pytorch")}
    runs["evaluation"] = in_turns(jobs, options.evaluations, "evaluation")
    rows, counts = {**WORKS, "evaluation": EVALUATION}, _operations(*_load(arguments[1:]))
    return {
        "what": f"encoders and PyTorch's, {' '.join(map(str, arguments[2:])) or 'ViT-B/16 at 384x128'}",
        "threads": options.threads,
        "rows": [
            {"work": words, "operations": counts[name], **_row(runs[name])}
            for name, words in rows.items()
            if runs[name]["ours"]
        ],
        "machine": machine(),
    }


def _operations(config: Config, data: EvaluationSet) -> dict[str, int]:
    """Count what the products of each work multiply and add; a caption ends with its last token."""
    picture, text = picture_operations(config.model), config.model.sizes.text
    lengths = Tokenizer.of(config.model)(list(dict.fromkeys(data.captions))).argmax(1) + 1
    captions = sum(tower_operations(text, int(length)) for length in lengths)
    pictures = len({*data.photos, *data.sketches})
    return {"image": _PICTURES * picture, "text": captions, "evaluation": pictures * picture + captions}


def _row(runs: dict[str, list[Run]]) -> dict[str, Any]:
    return {
        "rounds": len(runs["ours"]),
        "ratio": ratio(runs["ours"], runs["pytorch"]),
        "cpu_ratio": ratio(runs["ours"], runs["pytorch"], "cpu_seconds"),
        "beside": {name: ratio(found, runs["pytorch"]) for name, found in runs.items() if name in BESIDE},
        "seconds": {name: figure(found) for name, found in runs.items()},
    }


def to_text(result: dict[str, Any]) -> str:
    """Format the measurements as text."""
    rows = []
    for row in result["rows"]:
        ratios = {"ours": row["ratio"], **row["beside"]}
        for name, seconds in row["seconds"].items():
            least = number(limit(result, row["operations"], side=name))
            rows.append((row["work"], name, spread(seconds), spread(ratios[name]) if name in ratios else "", least))
    headers = ("work", "side", "seconds", "/ PyTorch's", "limit, s")
    rounds = " and ".join(str(row["rounds"]) for row in result["rows"])
    return f"{result['what']}; {rounds} rounds, median [min..max]\n\n{table(rows, *headers)}"


def _load(overrides: tuple[str, ...]) -> tuple[Config, EvaluationSet]:
    config = load_config(None, list(overrides))
    return config, load_evaluation_set(config.data, "test")


def _pictures(config: Config) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((_PICTURES, 3, *config.model.image_size), dtype=np.float32)


def encode_ours(precision: str, _: str, *overrides: str) -> Run:
    """Wait for requests to encode with this project."""
    config, data = _load((f"runtime.precision={precision}", *overrides))
    encoder, pictures, captions = random_encoder(config), _pictures(config), list(dict.fromkeys(data.captions))
    return stand_by({"image": lambda: encoder.pixels(pictures), "text": lambda: encoder.captions(captions)})


def evaluate_ours(_: str, *overrides: str) -> Run:
    """Evaluate the split with this project."""
    from ms_unireid.evaluation.evaluator import evaluate_features

    config, data = _load(overrides)
    encoder = random_encoder(config)
    return measured(lambda: evaluate_features(encoder.encode(data)))


def encode_exported(encoder: str, precision: str, threads: str, *overrides: str) -> Run:
    """Wait for requests to encode pictures with an export of the model."""
    from ms_unireid.apps.export.cache import open_exported_model
    from ms_unireid.checkpoints.checkpoint import save_checkpoint
    from ms_unireid.config import to_dict
    from ms_unireid.models.unireid import build_model

    plain, _ = _load(overrides)
    config = load_config(None, [*overrides, f"runtime.encoder={encoder}", f"runtime.precision={precision}"])
    os.environ["OMP_NUM_THREADS"] = threads
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        file, pictures = Path(folder) / "model.ckpt", _pictures(config)
        save_checkpoint(file, build_model(plain.model).get_parameters(), {"config": to_dict(plain)})
        model = open_exported_model(file, config)
        model.images(pictures)  # reads the file
    return stand_by({"image": lambda: model.images(pictures)})


def encode_pytorch(threads: str, *overrides: str, bfloat16: bool = False) -> Run:
    """Wait for requests to encode with PyTorch, in bfloat16 by its autocast."""
    import torch

    config, data = _load(overrides)
    model, pictures = _their_model(threads, config), torch.from_numpy(_pictures(config))
    token_ids = Tokenizer.of(config.model)(list(dict.fromkeys(data.captions)))
    visual = torch.no_grad()(model.base_model.visual)

    def encode_image() -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            return visual(pictures)

    return stand_by({"image": encode_image, "text": lambda: _their_texts(model, token_ids, config)})


def _their_model(threads: str, config: Config) -> Any:
    import torch

    from ms_unireid.apps.benchmarks.torch_unireid import UNIReID

    torch.set_num_threads(int(threads))
    return UNIReID(config).eval()


def _their_texts(model: Any, token_ids: np.ndarray, config: Config) -> Any:
    import torch

    with torch.no_grad():
        batches = torch.from_numpy(token_ids.astype(np.int64)).split(config.eval.batch_size)
        return torch.cat([model.base_model.encode_text(batch) for batch in batches])


def evaluate_pytorch(threads: str, *overrides: str) -> Run:
    """Evaluate the split as a plain PyTorch script does."""
    config, data = _load(overrides)
    model = _their_model(threads, config)
    return measured(lambda: _evaluate_plainly(model, config, data))


def _evaluate_plainly(model: Any, config: Config, data: EvaluationSet) -> list[dict[str, float]]:
    import torch
    from torch.nn.functional import normalize

    photos, sketches = (_their_pictures(model, paths, config) for paths in (data.photos, data.sketches))
    texts = _their_texts(model, Tokenizer.of(config.model)(data.captions), config)
    persons, sources = torch.from_numpy(data.person_ids), torch.from_numpy(data.caption_photos)
    own = torch.arange(len(photos))
    rows = [(texts, sources, True), (sketches, own, True), (sketches[sources] + texts, sources, True)]
    rows.append((texts, sources, False))
    scores = []
    for queries, origins, leaves_out in rows:
        similarity = normalize(queries) @ normalize(photos).T
        if leaves_out:
            similarity[torch.arange(len(queries)), origins] = -torch.inf
        scores.append(_their_scores(similarity, persons[origins], persons, leaves_out))
    return scores


def _their_pictures(model: Any, paths: Sequence[Path], config: Config) -> Any:
    import torch
    from torch.utils.data import DataLoader

    def read(path: Path) -> Any:
        return torch.from_numpy(evaluation_transform(load_picture(path), config.model.image_size))

    loader = DataLoader(list(paths), config.eval.batch_size, collate_fn=lambda batch: torch.stack([*map(read, batch)]))
    with torch.no_grad():
        return torch.cat([model.base_model.visual(batch) for batch in loader])


def _their_scores(similarity: Any, persons: Any, gallery: Any, leaves_out: bool) -> dict[str, float]:
    """Score ranked matches; a photo that is left out is ranked last and never matches."""
    import torch

    order = similarity.argsort(1, descending=True)
    matches = gallery[order] == persons[:, None]
    if leaves_out:
        matches[:, -1] = False
    matches = matches[matches.any(1)].double()
    precision = matches.cumsum(1) / torch.arange(1, matches.shape[1] + 1)
    scores = {f"R{k}": 100 * matches[:, :k].any(1).double().mean().item() for k in (1, 5, 10)}
    return {**scores, "mAP": 100 * ((precision * matches).sum(1) / matches.sum(1)).mean().item()}


JOBS = {
    "encode-ours": functools.partial(encode_ours, "fp32"),
    "encode-ours-bf16": functools.partial(encode_ours, "bf16"),
    "encode-pytorch": encode_pytorch,
    "encode-pytorch-bf16": functools.partial(encode_pytorch, bfloat16=True),
    "encode-openvino": functools.partial(encode_exported, "openvino", "fp32"),
    "encode-openvino-bf16": functools.partial(encode_exported, "openvino", "bf16"),
    "encode-onnxruntime-int8": functools.partial(encode_exported, "onnxruntime", "int8"),
    "evaluate-split-ours": evaluate_ours,
    "evaluate-split-pytorch": evaluate_pytorch,
}
