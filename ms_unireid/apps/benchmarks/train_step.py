"""A training step compared with PyTorch's: encoders, full objective, gradients, Adam.

python tools/benchmark.py train-step --batch 8 --rounds 5 --json train_step.json
"""

import argparse
import contextlib
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ms_unireid.apps.arguments import at_least
from ms_unireid.apps.benchmarks.runs import (
    WARM_UP,
    Run,
    Standby,
    figure,
    limit,
    machine,
    pair_operations,
    ratio,
    spread,
    stand_by,
    table,
    work_in_turns,
)
from ms_unireid.config import Config, load_config

GIB = 1 << 30
# By default glibc returns large blocks to the system after each use and clears them again.
TUNED = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(64 * GIB),
    "MALLOC_TOP_PAD_": str(GIB // 4),
    "MALLOC_ARENA_MAX": "1",
}
# A job and its environment; the first two are measured if none is named.
BASELINES = {
    "pytorch": ("step-pytorch", {}),
    "pytorch_tuned": ("step-pytorch", TUNED),
    "pytorch_bf16": ("step-pytorch-bf16", {}),
    "ours_bf16": ("step-ours-bf16", {}),
}
WORDS = {
    "pytorch": "PyTorch as installed",
    "pytorch_tuned": "PyTorch, glibc keeping its memory",
    "pytorch_bf16": "PyTorch's autocast to bfloat16",
    "ours_bf16": "ours, runtime.precision=bf16",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sub-command."""
    parser.add_argument("--batch", type=at_least(1), default=8, help="pairs in a step")
    parser.add_argument("--rounds", type=at_least(1), default=5)
    parser.add_argument(
        "--warm-up", type=at_least(0), default=WARM_UP, help="unmeasured rounds before the measured ones"
    )
    parser.add_argument("--baselines", nargs="+", choices=tuple(BASELINES), default=list(BASELINES)[:2])
    parser.add_argument(
        "--threads", type=at_least(1), default=2, help="threads of PyTorch; MindSpore uses all cores it may run on"
    )
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="change a value of the config")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Take steps of every side alternately."""
    arguments = [f"data.batch_size={options.batch}", *options.overrides]
    with contextlib.ExitStack() as stack:
        sides = {"ours": Standby("step-ours", options.threads, *arguments)}
        for name in options.baselines:
            job, environment = BASELINES[name]
            sides[name] = Standby(job, options.threads, *arguments, environment=environment)
        for side in sides.values():
            stack.enter_context(side)
        first, runs = work_in_turns(sides, "step", options.warm_up, options.rounds)
    return {
        "what": f"a training step of {options.batch} pairs, {' '.join(arguments)}",
        "operations": options.batch * pair_operations(load_config(None, arguments).model),
        "rounds": options.rounds,
        "warm_up": options.warm_up,
        "threads": options.threads,
        "ratio": {name: ratio(runs["ours"], runs[name]) for name in options.baselines},
        "cpu_ratio": {name: ratio(runs["ours"], runs[name], "cpu_seconds") for name in options.baselines},
        "seconds": {name: figure(found) for name, found in runs.items()},
        "first_step_seconds": {name: run["seconds"] for name, run in first.items()},
        "peak_gib": {name: max(run["peak_bytes"] for run in found) / GIB for name, found in runs.items()},
        "machine": machine(),
    }


def to_text(result: dict[str, Any]) -> str:
    """Format the measurements as text."""
    peaks = result["peak_gib"]
    rows = []
    for name, seconds in result["seconds"].items():
        ratios = [""] * 3
        if name != "ours":
            ratios = [*(spread(result[kind][name]) for kind in ("ratio", "cpu_ratio"))]
            ratios.append(f"{peaks['ours'] / peaks[name]:.2f}")
        least = f"{limit(result, result['operations'], side=name):.1f}"
        first = f"{result['first_step_seconds'][name]:.1f}"
        rows.append((WORDS.get(name, name), spread(seconds), first, f"{peaks[name]:.2f}", *ratios, least))
    ratios = ("ours / it", "in CPU time", "in memory")
    return f"{result['what']}; {result['rounds']} rounds after {result['warm_up']}, median [min..max]\n\n" + table(
        rows, "side", "seconds", "the first", "peak GiB", *ratios, "limit, s"
    )


def make_batch(config: Config) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw photos and sketches (B, 3, H, W) float32 and token ids (B, L) int32."""
    rng, pairs = np.random.default_rng(1), config.data.batch_size
    photos, sketches = rng.standard_normal((2, pairs, 3, *config.model.image_size), dtype=np.float32)
    token_ids = rng.integers(1, 49406, (pairs, config.model.context_length)).astype(np.int32)
    token_ids[:, -2] = 49407
    return photos, sketches, token_ids


def make_step(*overrides: str) -> Callable[[], Any]:
    """Build the model of a config; return a function that takes a step on drawn pairs."""
    from ms_unireid.models.unireid import build_model
    from ms_unireid.runtime import prepare
    from ms_unireid.training.train_step import TrainOneStepCell

    config = load_config(None, list(overrides))
    prepare(config.runtime)
    step, batch = TrainOneStepCell(build_model(config.model, 1, config.runtime), config), make_batch(config)
    step.set_train()
    # The norm is ready when the weights are updated.
    return lambda: step(*batch, config.train.learning_rate).gradient_norm


def step_ours(precision: str, _: str, *overrides: str) -> Run:
    """Wait for requests to take a step of this project."""
    return stand_by({"step": make_step(f"runtime.precision={precision}", *overrides)})


def step_pytorch(threads: str, *overrides: str, bfloat16: bool = False) -> Run:
    """Wait for requests to take PyTorch's step; in bfloat16 its encoders and objective are under autocast."""
    import torch

    from ms_unireid.apps.benchmarks.torch_unireid import UNIReID, make_optimizer, to_torch

    torch.set_num_threads(int(threads))
    config = load_config(None, list(overrides))
    model, batch = UNIReID(config), to_torch(make_batch(config))
    optimizer = make_optimizer(model, config)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = model(*batch)
        loss.backward()
        optimizer.step()
        loss.item()

    return stand_by({"step": step})


JOBS = {
    "step-ours": functools.partial(step_ours, "fp32"),
    "step-ours-bf16": functools.partial(step_ours, "bf16"),
    "step-pytorch": step_pytorch,
    "step-pytorch-bf16": functools.partial(step_pytorch, bfloat16=True),
}
