"""The script that msrun starts for test_two_processes.py: all operations of processes, on a different value in each.

together.py DATA OUTPUT writes OUTPUT/RANK.npz.
"""

import sys
from pathlib import Path

import mindspore as ms
import numpy as np
from distributed.examples import EVALUATIONS, MODES, ContrastGradient, Weighted, evaluate, params_of, rows_of
from mindspore import Tensor

from ms_unireid import distributed
from ms_unireid.config import RuntimeConfig
from ms_unireid.runtime import Processes, prepare


def gradients(processes: Processes) -> dict[str, np.ndarray]:
    """Join rows with gradient, and average gradients."""
    rank = processes.rank
    gather = distributed.GatherWithGradient(processes)
    loss, grads = ContrastGradient(gather)(Tensor(rows_of(rank)))
    params = params_of(rank)
    mean = distributed.MeanOverProcesses([*(p.shape for p in params), (2,)], processes)
    contrast_mean = distributed.MeanOverProcesses([grad.shape for grad in grads], processes)
    # A process's value that is not finite shows in all of them.
    spoiled = Tensor([[1.0, 0.5], [np.nan, 1.5]][rank], ms.float32)
    return {
        "joined": gather(Tensor(rows_of(rank))).asnumpy(),
        "gradient_of_rows": ms.grad(Weighted(gather, rank))(Tensor(rows_of(rank))).asnumpy(),
        "loss": loss.asnumpy(),
        **{f"contrast_{i}": grad.asnumpy() for i, grad in enumerate(contrast_mean(*grads))},
        **{f"mean_{i}": grad.asnumpy() for i, grad in enumerate(mean(*(p + 0 for p in params), spoiled))},
    }


def exchanges(processes: Processes) -> dict[str, np.ndarray]:
    """Exchange parameters, rows, numbers and flags."""
    rank, params = processes.rank, params_of(processes.rank)
    distributed.broadcast_parameters(params, processes)
    rows = np.array([[-0.0, np.nan, -np.inf, 1e-42, rank]], np.float32)
    return {
        **{f"broadcast_{i}": param.asnumpy() for i, param in enumerate(params)},
        "rows": distributed.all_gather_rows(rows, processes),
        "integers": distributed.all_gather_rows(np.arange(2) + 10 * rank, processes),
        "flags": np.array([distributed.any_process(f, processes) for f in (False, rank == 0, rank == 1, True)]),
    }


def main(data: Path, output: Path) -> None:
    prepare(RuntimeConfig(device="CPU"))
    processes = distributed.start()
    found = {"processes": np.array([processes.rank, processes.size])}
    for name, mode in MODES.items():
        ms.set_context(mode=mode)
        found |= {f"{name}/{key}": value for key, value in (gradients(processes) | exchanges(processes)).items()}
    for name, size in EVALUATIONS:
        ms.set_context(mode=MODES[name])
        found |= {f"{size}/{key}": value for key, value in evaluate(data, size, processes).items()}
    np.savez(output / f"{processes.rank}.npz", **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
