"""The matrix products of a visual block, compared with PyTorch's: a bound on the speed of a step.

python tools/benchmark.py products --pairs 8 --rounds 5 --json products.json
"""

import argparse
from typing import Any

import numpy as np
from tqdm import tqdm

from ms_unireid.apps.arguments import at_least
from ms_unireid.apps.benchmarks.runs import Run, Standby, ratio, spread, stand_by, summary
from ms_unireid.runtime import describe

TOKENS, WIDTH = 193, 768
REPEATS = 5
# x W^T, its gradient to x and its gradient to W: whether each operand is transposed.
FORMS = {"forward": (False, True), "to the input": (False, False), "to the weight": (True, False)}
MAPS = {"c_fc": (WIDTH, 4 * WIDTH), "c_proj": (4 * WIDTH, WIDTH)}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sub-command."""
    parser.add_argument("--pairs", type=at_least(1), default=8, help="pairs in a step; each has two pictures")
    parser.add_argument("--rounds", type=at_least(1), default=5)
    parser.add_argument(
        "--threads", type=at_least(1), default=2, help="threads of PyTorch; MindSpore uses all cores it may run on"
    )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Multiply with MindSpore and PyTorch alternately."""
    arguments = (options.threads, options.pairs)
    runs: dict[str, dict[str, list[Run]]] = {name: {"ours": [], "pytorch": []} for name in _products()}
    with Standby("products-ours", *arguments) as ours, Standby("products-pytorch", *arguments) as theirs:
        for name in runs:
            for side in (ours, theirs):
                side.work(name)
        for _ in tqdm(range(options.rounds), desc="products", unit="round"):
            for name, found in runs.items():
                for kind, side in (("ours", ours), ("pytorch", theirs)):
                    found[kind].append(side.work(name))
    return {
        "what": f"products of {2 * options.pairs * TOKENS} rows, {REPEATS} a round, float32",
        "rounds": options.rounds,
        "threads": options.threads,
        "ratio": {name: ratio(found["ours"], found["pytorch"]) for name, found in runs.items()},
        "cpu_ratio": {name: ratio(found["ours"], found["pytorch"], "cpu_seconds") for name, found in runs.items()},
        "all": summary(
            [
                sum(found["ours"][i]["seconds"] for found in runs.values())
                / sum(found["pytorch"][i]["seconds"] for found in runs.values())
                for i in range(options.rounds)
            ]
        ),
        "machine": describe("CPU"),
    }


def to_text(result: dict[str, Any]) -> str:
    """Format the measurements as text."""
    lines = [f"{result['what']}; {result['rounds']} rounds, time of MindSpore / PyTorch, median [min..max]"]
    for name, values in result["ratio"].items():
        lines.append(f"{name}: {spread(values)}, in CPU time {spread(result['cpu_ratio'][name])}")
    return "\n".join([*lines, f"all together: {spread(result['all'])}"])


def _products() -> list[str]:
    return [f"{layer} {form}" for layer in MAPS for form in FORMS]


def _operands(pairs: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    layer, form = name.split(" ", 1)
    inputs, outputs = MAPS[layer]
    rows = 2 * int(pairs) * TOKENS
    rng = np.random.default_rng(1)
    x, y, weight = (rng.standard_normal(s, np.float32) for s in ((rows, inputs), (rows, outputs), (outputs, inputs)))
    return {"forward": (x, weight), "to the input": (y, weight), "to the weight": (y, x)}[form]


def multiply_ours(_: str, pairs: str) -> Run:
    """Wait for requests to multiply with MindSpore, compiled as a step is."""
    import mindspore as ms
    from mindspore import Tensor

    from ms_unireid.models.ops import MatMul

    ms.set_context(mode=ms.GRAPH_MODE)
    works = {}
    for name in _products():
        transpose_a, transpose_b = FORMS[name.split(" ", 1)[1]]
        a, b = map(Tensor, _operands(pairs, name))
        product = MatMul(transpose_a=transpose_a, transpose_b=transpose_b)
        works[name] = lambda product=product, a=a, b=b: [product(a, b).asnumpy() for _ in range(REPEATS)]
    return stand_by(works)


def multiply_pytorch(threads: str, pairs: str) -> Run:
    """Wait for requests to multiply with PyTorch."""
    import torch

    torch.set_num_threads(int(threads))
    works = {}
    for name in _products():
        transpose_a, transpose_b = FORMS[name.split(" ", 1)[1]]
        a, b = map(torch.from_numpy, _operands(pairs, name))
        a, b = a.T if transpose_a else a, b.T if transpose_b else b
        works[name] = lambda a=a, b=b: [(a @ b).numpy() for _ in range(REPEATS)]
    return stand_by(works)


JOBS = {"products-ours": multiply_ours, "products-pytorch": multiply_pytorch}
