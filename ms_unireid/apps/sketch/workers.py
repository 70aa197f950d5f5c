"""Runs jobs in several processes; a job that crashes its process fails alone."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from ms_unireid.errors import EnvironmentProblem

# Numeric libraries start a thread for each core in every process; they read these variables when they are imported.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_CRASHES_IN_A_ROW = 5


class WorkerDied(Exception):
    """The process that ran a job ended before the job did."""


def run_jobs(
    work: Callable[[Any], Any], jobs: Sequence[Any], workers: int, start: Callable[..., None], *arguments: Any
) -> Iterator[tuple[Any, Any]]:
    """Run jobs in any order and yield (job, result or WorkerDied).

    One worker runs in this process. More are spawned, so a calling script needs an ``if __name__ == "__main__"``; they
    end with this process, even if it is killed.

    Args:
        work: Called with a job; a function of a module.
        jobs: Values that can be pickled.
        workers: Number of processes, at least 1.
        start: Called first in each process, with the arguments; must be quick and not fail.
        *arguments: Values that can be pickled.

    Raises:
        EnvironmentProblem: If several processes die one after the other.
        Exception: Any exception that `work` raises.
    """
    if workers == 1:
        start(*arguments)
        yield from ((job, work(job)) for job in jobs)
        return
    waiting, crashes = deque(jobs), 0
    while waiting:
        suspects: list[Any] = []
        yield from _run_until_crash(work, waiting, workers, suspects, start, arguments)
        for job in suspects:  # one of them caused the crash: each gets its own process
            result = _run_alone(work, job, start, arguments)
            crashes = crashes + 1 if isinstance(result, WorkerDied) else 0
            if crashes >= _CRASHES_IN_A_ROW:
                raise EnvironmentProblem(
                    f"{crashes} worker processes died one after the other, perhaps for lack of memory; use fewer "
                    "--workers, or --workers 1 to see the error"
                )
            yield job, result


def _run_until_crash(work, waiting: deque, workers: int, suspects: list, start, arguments) -> Iterator[tuple[Any, Any]]:
    pool = _pool(workers, start, arguments)
    running: dict[Future, Any] = {}
    try:
        while (waiting or running) and not suspects:
            while waiting and len(running) < 3 * workers:
                running[pool.submit(work, waiting[0])] = waiting[0]
                waiting.popleft()
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                if isinstance(future.exception(), BrokenProcessPool):
                    suspects.append(job)
                else:
                    yield job, future.result()
    except BrokenProcessPool:  # a process died before the next job was submitted
        pass
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    for future, job in running.items():
        if future.done() and not future.cancelled() and future.exception() is None:
            yield job, future.result()
        else:
            suspects.append(job)


def _run_alone(work, job: Any, start, arguments) -> Any:
    with _pool(1, start, arguments) as pool:
        try:
            return pool.submit(work, job).result()
        except BrokenProcessPool:
            return WorkerDied("the process that drew it died: a crash in a library, or no memory left")


def _pool(workers: int, start, arguments) -> ProcessPoolExecutor:
    for name in _THREADS:
        os.environ.setdefault(name, "1")  # inherited by the processes; this one has imported its libraries already
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=spawn, initializer=_begin, initargs=(start, arguments))


def _begin(start, arguments) -> None:
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    start(*arguments)


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
