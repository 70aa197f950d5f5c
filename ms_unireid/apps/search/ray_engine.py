"""Encodes new photos on Ray: workers that hold the model, on this machine's cores or in a cluster.

A task is successive batches. Its worker streams them back one by one, so that a lost worker costs one batch, and the
rest of its task is done again by another one. The batches come out in the order of the photos, as in one process.
"""

import contextlib
import io
import itertools
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import ms_unireid
from ms_unireid.apps.optional import need
from ms_unireid.apps.search.engines.exact import usable_cores
from ms_unireid.apps.search.index_writer import Batch
from ms_unireid.apps.search.scanning import New
from ms_unireid.checkpoints.formats.any_file import checkpoint_digest
from ms_unireid.config import Config
from ms_unireid.errors import CheckpointError, EnvironmentProblem, Interrupted, UserError, one_line
from ms_unireid.installation import install_extra

_TASK = 2048  # most photos of a task
_TASKS_EACH = 4  # least tasks for each worker, where there are as many batches: the faster ones take more of them
_AHEAD = 2  # tasks for each worker that are begun before the first of them is wholly written
_TRIES = 3
_PATIENCE = 60  # seconds without anything from Ray until the user is told what is waited for
_REACHED = 5  # seconds to reach an address
# The beginning of gRPC, which Ray's servers speak: HTTP/2 with empty settings. An answer begins with settings, kind 4.
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_STORE = 100 << 20  # bytes of Ray's store on this machine: features and facts pass through it, never pictures
# Kind of device to the name of its resource in Ray.
_RESOURCES = {"Ascend": "NPU", "GPU": "GPU", "CPU": "CPU"}


@dataclass(frozen=True)
class Cluster:
    """The workers to encode with."""

    address: str | None = None  # HOST:PORT of a cluster, or auto; None starts Ray on the cores of this process
    workers: int | None = None  # most workers; None is one for each device, or for each core without devices


class Worker:
    """Holds the model in a process of Ray; only there MindSpore is imported, which takes 300 MB.

    Args:
        checkpoint: Its `path`, the same on every machine, and `sha256`.
        config: The config of the encoder.
    """

    def __init__(self, checkpoint: Mapping[str, str], config: Config):
        self.checkpoint, self.config = checkpoint, config

    def open(self) -> None:
        """Build the model; CheckpointError if this machine has another file at the path."""
        from ms_unireid.apps.search.encoding import open_encoder

        path = Path(self.checkpoint["path"])
        encoder = open_encoder(path, self.config)
        if checkpoint_digest(path) != self.checkpoint["sha256"]:
            raise CheckpointError(
                f"{path}: is another file on {socket.gethostname()}; copy the checkpoint to the same path of every "
                "machine, or put it into a folder that all of them share"
            )
        self.encoder = encoder

    def encode(
        self, index: Path, folders: Mapping[int, Path], batches: Sequence[Sequence[New]]
    ) -> Generator[Batch, None, None]:
        """Yield the batches, encoded."""
        from ms_unireid.apps.search.encoding import encode_batches

        yield from encode_batches(self.encoder, index, folders, batches)


def encode_on_ray(
    cluster: Cluster,
    checkpoint: Mapping[str, str],
    config: Config,
    index: Path,
    folders: Mapping[int, Path],
    new: Sequence[New],
) -> Generator[Batch, None, None]:
    """Yield all batches in order, each equal to that of one process with as many threads.

    Raises:
        EnvironmentProblem: If Ray is not installed, cannot be reached or has no room for a worker.
        UserError: If a worker cannot open the model, or a task has been lost `_TRIES` times.
    """
    if not new:
        return
    size = config.eval.batch_size
    batches = [new[first : first + size] for first in range(0, len(new), size)]
    with _connected(cluster) as ray:
        count, needs = _room(ray, config.runtime.device, cluster.workers)
        count = min(count, len(batches))
        length = max(1, min(_TASK // size, len(batches) // (count * _TASKS_EACH)))
        tasks = deque(
            _Task(deque(batches[first : first + length]), first * size) for first in range(0, len(batches), length)
        )
        # Ray shows a worker only its own device.
        config = replace(config, runtime=replace(config.runtime, device_id=0))
        kind = ray.remote(Worker).options(**needs)
        pool = _Pool(ray, lambda: kind.remote(dict(checkpoint), config), (index, dict(folders)))
        for _ in range(count):
            pool.start()
        yield from pool.encode(tasks, _AHEAD * count)


@dataclass
class _Task:
    """Successive batches for one worker."""

    left: deque[Sequence[New]]  # not encoded
    first: int  # number of the first photo
    done: deque[Batch] = field(default_factory=deque)  # encoded, not yielded
    runs: bool = False
    failures: int = 0


class _Pool:
    """Workers, of which each is starting, idle or busy; `make` makes one, and `shared` begins the arguments of work."""

    def __init__(self, ray: ModuleType, make: Any, shared: tuple):
        self.ray, self.make, self.shared = ray, make, shared
        self.starting: dict[Any, Any] = {}  # what Ray will answer, to the worker
        self.idle: list[Any] = []
        self.busy: dict[Any, tuple[Any, _Task]] = {}  # the stream of its batches, to worker and task
        self.failed_starts = 0

    def start(self) -> None:
        """Start a worker."""
        worker = self.make()
        self.starting[worker.open.remote()] = worker

    def encode(self, tasks: deque[_Task], ahead: int) -> Iterator[Batch]:
        """Yield the batches of all tasks in order; at most `ahead` tasks are begun and not wholly yielded."""
        while tasks:
            for task in itertools.islice(tasks, ahead):
                if self.idle and task.left and not task.runs:
                    worker = self.idle.pop()
                    stream = worker.encode.options(num_returns="streaming").remote(*self.shared, list(task.left))
                    self.busy[stream], task.runs = (worker, task), True
            while tasks[0].done:
                yield tasks[0].done.popleft()
            if tasks[0].left:
                self._wait()
            else:
                tasks.popleft()

    def _wait(self) -> None:
        """Wait for the next answer of a worker."""
        ready, _ = self.ray.wait([*self.starting, *self.busy], num_returns=1, timeout=_PATIENCE)
        if not ready and not any(node["Alive"] for node in self.ray.nodes()):
            raise UserError("Ray has ended on all its machines; what is written stays, and the next run goes on")
        if not ready and not self.busy:
            print("note: waiting for Ray to start a worker; `ray status` shows what is free", file=sys.stderr)
        for answer in ready:
            if answer in self.starting:
                self._take_start(answer)
            else:
                self._take_batch(answer)

    def _take_start(self, answer: Any) -> None:
        worker = self.starting.pop(answer)
        try:
            self.ray.get(answer)
        except self.ray.exceptions.RayError as error:
            self.failed_starts += 1
            if self.failed_starts == _TRIES:
                _raise(error, f"{_TRIES} workers of Ray could not start, one after another")
            self._replace(worker, error)
        else:
            self.failed_starts = 0
            self.idle.append(worker)

    def _take_batch(self, stream: Any) -> None:
        worker, task = self.busy[stream]
        try:
            task.done.append(self.ray.get(next(stream)))
            task.left.popleft()
        except StopIteration:
            del self.busy[stream]
            task.runs = False
            self.idle.append(worker)
        except self.ray.exceptions.RayError as error:
            del self.busy[stream]
            task.runs, task.failures = False, task.failures + 1
            if task.failures == _TRIES:
                _raise(error, f"a task of photos, from number {task.first + 1:,} on, has lost {_TRIES} workers")
            self._replace(worker, error)

    def _replace(self, worker: Any, error: Exception) -> None:
        if isinstance(getattr(error, "cause", None), UserError):
            raise error.cause from None
        self.ray.kill(worker)
        self.start()


def _raise(error: Exception, what: str) -> NoReturn:
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, UserError):
        raise cause from None
    raise UserError(
        f"{what} (the last one: {one_line(cause)}); what is written stays, and the next run goes on. If the memory of "
        "the machines is full, use fewer --workers"
    ) from error


def _room(ray: ModuleType, device: str, most: int | None) -> tuple[int, dict[str, Any]]:
    """Return how many workers the cluster has room for, at most `most`, and what each of them takes of it."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    names = ("NPU", "GPU", "CPU") if device == "auto" else (_RESOURCES[device],)
    name = next((name for name in names if any(node.get(name) for node in nodes)), names[-1])
    offered = [int(node.get(name, 0)) for node in nodes]
    if not sum(offered):
        raise EnvironmentProblem(f"Ray offers no {name}; start its machines with some, or set runtime.device")
    count = min(sum(offered), most or sum(offered))
    if name != "CPU":
        return count, {"num_cpus": 1, **({"num_gpus": 1} if name == "GPU" else {"resources": {name: 1}})}
    # Fewer workers than cores take more cores each, all of them in one machine.
    cores = max(cores for cores in range(1, max(offered) + 1) if sum(one // cores for one in offered) >= count)
    return count, {"num_cpus": cores}  # Ray lets a worker have as many threads


@contextlib.contextmanager
def _connected(cluster: Cluster) -> Iterator[ModuleType]:
    """Start Ray, or connect to a cluster; end what was started. SIGTERM ends it as Ctrl-C does."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to Ray's makers
    ray = need("ray", "search.py index --engine ray", install_extra("ray"))
    parent = str(Path(ms_unireid.__file__).resolve().parents[1])  # of this package, which may not be installed
    path = os.pathsep.join(filter(None, (parent, os.environ.get("PYTHONPATH"))))
    how = {
        "runtime_env": {"env_vars": {"PYTHONPATH": path}},
        "log_to_driver": False,
        "logging_level": logging.CRITICAL,
    }
    with contextlib.ExitStack() as stack:
        # Ray prints a paragraph there for each lost worker, beside our results; the last one is told in our words.
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        if cluster.address is None:
            # Ray's usual folder may belong to another user of the machine.
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True))
            how |= {"num_cpus": usable_cores(), "object_store_memory": _STORE}
            how |= {"include_dashboard": False, "_temp_dir": folder}
        else:
            _check_reachable(cluster.address)
        stack.enter_context(_sigterm_kept())
        stack.callback(ray.shutdown)
        try:
            with _silent():
                ray.init(cluster.address or "local", **how)
        except Exception as error:  # a start that takes too long is a plain one
            where = f"at {cluster.address}" if cluster.address else "on this machine"
            advice = (
                "start this on a machine of a running cluster with the same versions of Ray and Python, and "
                "RAY_AUTH_MODE=token if it asks for a token"
                if cluster.address
                else "look at the load and the free memory of the machine, and run it again"
            )
            raise EnvironmentProblem(f"Ray {where} cannot be used ({one_line(error)}); {advice}") from error
        _stop_at_sigterm()
        yield ray


def _check_reachable(address: str) -> None:
    """Check an address in seconds, for which Ray takes minutes; EnvironmentProblem if no Ray can be there."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _REACHED) as connection:
            connection.sendall(_GREETING)
            if connection.recv(len(_GREETING))[3:4] != _GREETING[-6:-5]:
                raise OSError("what answers is not Ray")
    except (OSError, ValueError, OverflowError) as error:
        raise EnvironmentProblem(
            f"--address {address}: no Ray is reached there ({one_line(error)}); expected HOST:PORT, as `ray start "
            "--head` prints it, or auto on a machine of the cluster"
        ) from error


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Drop what compiled code writes to stderr in a `with` block: Ray tells each attempt to connect there."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextlib.contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Put back the handler of SIGTERM, which Ray replaces, at the end of a `with` block."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def _stop_at_sigterm() -> None:
    def stop(number: int, frame: object) -> NoReturn:
        raise Interrupted(number, "what is written stays, and the next run goes on")

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)
