"""What processes started by `msrun` do together, on MindSpore's own collectives: HCCL, NCCL or, on the CPU, MCCL.

Every function here but `start` is called by all processes or by none, in the same order: who is alone in it waits.
"""

import os
from collections.abc import Iterable, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, communication, nn, ops

from ms_unireid.errors import EnvironmentProblem
from ms_unireid.runtime import ALONE, Processes


def start() -> Processes:
    """Join the processes that `msrun` started; a process started otherwise is alone, and nothing is touched.

    Call it once, with the device selected, before the first tensor and before anything is written: `msrun` runs the
    same script once more as its scheduler, which stays in this call until all others have ended, and ends in it.

    Raises:
        EnvironmentProblem: If the processes do not find each other or, in the scheduler, if one was lost.
    """
    if "MS_ROLE" not in os.environ:
        return ALONE
    try:
        communication.init()
        return Processes(communication.get_rank(), communication.get_group_size())
    except (RuntimeError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise EnvironmentProblem(
            f"the {os.environ.get('MS_WORKER_NUM', '?')} processes of msrun did not find each other, or lost one, at "
            f"{os.environ.get('MS_SCHED_HOST')}:{os.environ.get('MS_SCHED_PORT')} ({reason}); give msrun a free "
            "--master_port of at most 65535 and look for the first error in its --log_dir"
        ) from error


class GatherWithGradient(nn.Cell):
    """Joins equal blocks of rows of all processes, in rank order, so that a loss sees the global batch.

    Its gradient, for a process's block, is the sum over all processes of their losses' gradients with respect to that
    block. Where every process computes the same loss of the joined rows, that is `size` times the loss's gradient, and
    the mean over processes of the parameters' gradients is exactly the gradient of the loss.

    It sums blocks padded with zeros, on every device: the gradient of ops.AllGather has no CPU kernel, features are
    small, and so what the tests run is what trains.
    """

    def __init__(self, processes: Processes):
        super().__init__(auto_prefix=False)
        # A mask and not a position, so that all processes have one graph, with its collectives in one order.
        self.own = Tensor(np.arange(processes.size) == processes.rank)
        self.sum = ops.AllReduce()

    def construct(self, rows: Tensor) -> Tensor:
        """Join rows (B, ...) float32 to (size * B, ...), the same in every process."""
        blocks = rows.expand_dims(0)
        own = self.own.reshape((-1,) + (1,) * rows.ndim)
        joined = self.sum(ops.where(own, blocks, ops.zeros_like(blocks)))  # (size, B, ...)
        # Something must stand between the sum and what follows: MindSpore rewrites AllReduce(x) * y + z, for the sake
        # of weight decay, as AllReduce(x + z) * y, which in the gradient of a normalisation is wrong.
        return joined.reshape((-1,) + rows.shape[1:])


def gradient_reducer(params: Sequence[Parameter], processes: Processes) -> nn.Cell | None:
    """Return the cell that turns the gradients of `params`, a tuple, into their means over processes; alone, None."""
    return None if processes.size == 1 else nn.DistributedGradReducer(params, mean=True, degree=processes.size)


def broadcast_parameters(params: Iterable[Parameter], processes: Processes) -> None:
    """Give the parameters of every process the values they have in the first."""
    if processes.size == 1:
        return
    broadcast = ops.Broadcast(0)
    for param in params:
        param.set_data(broadcast((Tensor(param.asnumpy()),))[0])


def all_gather_rows(array: np.ndarray, processes: Processes) -> np.ndarray:
    """Join equal blocks of rows (N, ...) of numbers of all processes in rank order: (size * N, ...), bits unchanged."""
    return array if processes.size == 1 else ops.AllGather()(Tensor(array)).asnumpy()


def mean_over_processes(values: Sequence[float], processes: Processes) -> list[float]:
    """Return the mean of each number over all processes, in float32; what is not finite in one is so in all."""
    if processes.size == 1:
        return list(values)
    return (ops.AllReduce()(Tensor(values, ms.float32)).asnumpy() / processes.size).tolist()


def any_process(flag: bool, processes: Processes) -> bool:
    """Return whether any process says yes; all get the same answer."""
    if processes.size == 1:
        return flag
    return bool(ops.AllReduce()(Tensor([float(flag)], ms.float32)).asnumpy()[0] > 0)
