"""Collective operations of the processes that `msrun` starts, over HCCL, NCCL or, on a CPU, MCCL.

All processes must call each function but `start`, in the same order; a process that calls it alone waits forever.
"""

import os
import pickle
import signal
from collections.abc import Iterable, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, communication, nn, ops
from mindspore.ops.auto_generate import SplitWithSize

from ms_unireid.errors import EnvironmentProblem, Interrupted, one_line
from ms_unireid.runtime import ALONE, Processes


def start() -> Processes:
    """Join the processes that `msrun` started; a process started otherwise is `ALONE`.

    Call it once, after the device is selected and before the first tensor and any written file: `msrun` also runs the
    script as its scheduler, which waits in this call until all other processes have ended, and then exits. If the
    processes do not find each other, or one is lost, the call raises an EnvironmentProblem.
    """
    if "MS_ROLE" not in os.environ:
        return ALONE
    try:
        communication.init()
        return joined()
    except (RuntimeError, ValueError, TypeError) as error:
        raise EnvironmentProblem(
            f"the {os.environ.get('MS_WORKER_NUM', '?')} processes of msrun did not find each other, or lost one, at "
            f"{os.environ.get('MS_SCHED_HOST')}:{os.environ.get('MS_SCHED_PORT')} ({one_line(error)}); give msrun a "
            "free --master_port of at most 65535 and look for the first error in its --log_dir"
        ) from error


def joined() -> Processes:
    """Return the processes that `start` joined; without it this one is `ALONE`, even if `msrun` started it."""
    if not communication.GlobalComm.INITED:
        return ALONE
    return Processes(communication.get_rank(), communication.get_group_size())


class GatherWithGradient(nn.Cell):
    """Joins the equal blocks of rows of all processes in rank order, so that a loss sees the global batch.

    The gradient of a process's block is the sum over all processes of their losses' gradients for that block. Where
    every process computes the same loss of the joined rows, it is `size` times the loss's gradient, and the mean over
    processes of the parameters' gradients is exactly the gradient of the loss.

    The cell sums blocks padded with zeros, because the gradient of ops.AllGather has no CPU kernel; features are small.
    """

    def __init__(self, processes: Processes):
        super().__init__(auto_prefix=False)
        # A mask, not a position: all processes then have the same graph, with collectives in the same order.
        self.own = Tensor(np.arange(processes.size) == processes.rank)
        self.sum = ops.AllReduce()

    def construct(self, rows: Tensor) -> Tensor:
        """Join rows (B, ...) float32 to (size * B, ...), the same in every process."""
        blocks = rows.expand_dims(0)
        own = self.own.reshape((-1,) + (1,) * rows.ndim)
        joined = self.sum(ops.where(own, blocks, ops.zeros_like(blocks)))  # (size, B, ...)
        # The reshape separates the sum from what follows: for weight decay, MindSpore rewrites AllReduce(x) * y + z
        # as AllReduce(x + z) * y, which is wrong in the gradient of a normalisation.
        return joined.reshape((-1,) + rows.shape[1:])


class MeanOverProcesses(nn.Cell):
    """Averages tensors of these shapes in one collective: of one for each gradient, a device would launch hundreds."""

    def __init__(self, shapes: Sequence[tuple[int, ...]], processes: Processes):
        super().__init__(auto_prefix=False)
        self.sum, self.share, self.map = ops.AllReduce(), 1 / processes.size, ops.Map()
        sizes = [int(np.prod(shape)) for shape in shapes]
        self.sizes, self.starts = tuple(sizes), tuple(np.cumsum([0, *sizes[:-1]]).tolist())
        # On Ascend a slice has the older interface, and MindSpore copies every view of the sum.
        self.cut = SplitWithSize() if ms.get_context("device_target") == "Ascend" else None

    def construct(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the means of float32 tensors; one is not finite if a process's is not."""
        # A loop over hundreds of tensors would take minutes to compile.
        flat = self.share * self.sum(ops.concat(self.map(_flatten, tensors)))
        if self.cut is None:
            return self.map(ops.partial(_slice_like, flat), tensors, self.starts)
        return self.map(_shape_like, tensors, self.cut(flat, self.sizes, 0))


def _flatten(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1)


def _slice_like(flat: Tensor, like: Tensor, start: int) -> Tensor:
    return ops.slice(flat, (start,), (like.size,)).reshape(like.shape)


def _shape_like(like: Tensor, piece: Tensor) -> Tensor:
    return piece.reshape(like.shape)


def broadcast_parameters(params: Iterable[Parameter], processes: Processes) -> None:
    """Set the parameters of every process to the values in the first process."""
    if processes.size == 1:
        return
    broadcast = ops.Broadcast(0)
    for param in params:
        param.set_data(broadcast((Tensor(param.asnumpy()),))[0])


def all_gather_rows(array: np.ndarray, processes: Processes) -> np.ndarray:
    """Join the equal blocks of rows (N, ...) of all processes in rank order: (size * N, ...), bits unchanged."""
    return array if processes.size == 1 else ops.AllGather()(Tensor(array)).asnumpy()


def broadcast_value(value: Any, source: int, processes: Processes) -> Any:
    """Return the value that process `source` gives, in all processes: any value that can be pickled."""
    if processes.size == 1:
        return value
    data = pickle.dumps(value) if processes.rank == source else b""
    broadcast = ops.Broadcast(source)
    (length,) = broadcast((Tensor([len(data)], ms.int32),))
    padded = np.zeros(-(-int(length.asnumpy()[0]) // 4), np.int32)
    padded.view(np.uint8)[: len(data)] = np.frombuffer(data, np.uint8)
    return pickle.loads(broadcast((Tensor(padded),))[0].asnumpy().tobytes())  # what follows the value is not read


def any_process(flag: bool, processes: Processes) -> bool:
    """Return, in all processes, whether `flag` is true in any of them."""
    if processes.size == 1:
        return flag
    return bool(ops.AllReduce()(Tensor([float(flag)], ms.float32)).asnumpy()[0] > 0)


class StopRequest:
    """Notes SIGINT and SIGTERM while active; a second signal acts as usual.

    All processes stop at the same step, whichever of them gets the signal; `advice` tells the user how to resume.
    """

    def __init__(self, advice: str, processes: Processes = ALONE) -> None:
        self.advice, self.processes = advice, processes
        self.signal_number: int | None = None
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self.previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, _frame: object) -> None:
        self.signal_number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise Interrupted if there was a signal, in this process or in another."""
        if any_process(self.signal_number is not None, self.processes):
            raise Interrupted(self.signal_number or signal.SIGTERM, self.advice)
