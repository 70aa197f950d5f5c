"""The matrix products of a visual block, compared with PyTorch's: a bound on the speed of a step.

python tools/benchmark.py products --pairs 8 --rounds 5 --json products.json
"""

import argparse
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from tqdm import tqdm

from ms_unireid.apps.arguments import at_least
from ms_unireid.apps.benchmarks.runs import (
    Run,
    Standby,
    figure,
    limit,
    machine,
    measured,
    number,
    ratio,
    spread,
    stand_by,
    summary,
    table,
)

TOKENS, WIDTH = 193, 768
REPEATS = 5
SIDE, COPIED = 1536, 1 << 28  # of the products and the copy by which the machine is measured; bytes
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
        "operations": REPEATS * 2 * 2 * options.pairs * TOKENS * 4 * WIDTH**2,
        "seconds": {name: {side: figure(done) for side, done in found.items()} for name, found in runs.items()},
        "ratio": {name: ratio(found["ours"], found["pytorch"]) for name, found in runs.items()},
        "cpu_ratio": {name: ratio(found["ours"], found["pytorch"], "cpu_seconds") for name, found in runs.items()},
        "all": summary(
            [
                sum(found["ours"][i]["seconds"] for found in runs.values())
                / sum(found["pytorch"][i]["seconds"] for found in runs.values())
                for i in range(options.rounds)
            ]
        ),
        "machine": machine(),
    }


def to_text(result: dict[str, Any]) -> str:
    """Format the measurements as text."""
    least = number(limit(result, result["operations"]))
    rows = [
        (name, *map(spread, result["seconds"][name].values()), spread(values), spread(result["cpu_ratio"][name]), least)
        for name, values in result["ratio"].items()
    ]
    rows.append(("all", "", "", spread(result["all"]), "", ""))
    headers = ("product", "MindSpore, s", "PyTorch, s", "MindSpore / PyTorch", "in CPU time", "limit, s")
    return f"{result['what']}; {result['rounds']} rounds, median [min..max]\n\n{table(rows, *headers)}"


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


def rates(_: str) -> Run:
    """Measure the most that the machine multiplies and adds, by kind, and the bytes that a copy reads and writes.

    Both in a second, with all cores, the best of ten; the products are square, MindSpore's or, where it is there and
    faster, PyTorch's, which has bfloat16 as well.
    """
    import importlib.util

    import mindspore as ms
    from mindspore import Tensor

    from ms_unireid.models.ops import MatMul

    ms.set_context(mode=ms.GRAPH_MODE)
    cores = os.cpu_count() or 1
    a, b = np.random.default_rng(1).standard_normal((2, SIDE, SIDE), np.float32)
    product, x, y = MatMul(transpose_b=True), Tensor(a), Tensor(b)
    seconds = {"float32": [_time(lambda: product(x, y).asnumpy()) for _ in range(20)]}  # ten of them choose the threads
    if importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(cores)
        p, q = map(torch.from_numpy, (a, b))
        seconds["float32"] += [_time(lambda: p @ q.T) for _ in range(10)]
        p, q = p.bfloat16(), q.bfloat16()
        seconds["bfloat16"] = [_time(lambda: p @ q.T) for _ in range(10)]
    source = np.ones((cores, COPIED // cores), np.uint8)
    target = np.zeros_like(source)
    with ThreadPoolExecutor(cores) as pool:
        copies = [_time(lambda: [*pool.map(np.copyto, target, source)]) for _ in range(10)]
    return {kind: 2 * SIDE**3 / min(found) for kind, found in seconds.items()} | {
        "copy": 2 * source.nbytes / min(copies)
    }


def _time(work: Callable[[], object]) -> float:
    return measured(work)["seconds"]


JOBS = {"rates": rates, "products-ours": multiply_ours, "products-pytorch": multiply_pytorch}
