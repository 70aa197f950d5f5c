"""Indexes that workers of Ray encode: as one process makes them, and with workers that are killed."""

import contextlib
import json
import os
import signal
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from apps.search.index_factory import put_photos
from distributed.launcher import free_port
from distributed.test_index import checkpoint
from tool_runner import LIMIT, command, load_tool

from ms_unireid.apps.search import indexing, ray_engine
from ms_unireid.apps.search.engines.embedded import PhotoIndex
from ms_unireid.apps.search.index_writer import IndexWriter
from ms_unireid.config import Config
from ms_unireid.errors import CheckpointError, ConfigError, EnvironmentProblem, UserError

pytest.importorskip("ray")
COUNT = 60  # photos, in batches of four


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Return a folder with a checkpoint, photos, two of which cannot be read, and an index of one process."""
    folder = tmp_path_factory.mktemp("ray")
    put_photos(folder / "photos", range(COUNT - 1))
    (folder / "photos" / "012.png").write_bytes(b"no picture")
    (folder / "photos" / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    checkpoint(folder / "model.ckpt")
    load_tool("search.py").main([*arguments(folder, "one")])
    return folder


def arguments(place: Path, output: str, *more: str) -> list[str]:
    add = ["index", "--photos", place / "photos", "--checkpoint", place / "model.ckpt", "--output", place / output]
    return [*map(str, add), *more]


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, int]]:
    """Start a cluster of one worker as users do; yield its address and process."""
    address = f"127.0.0.1:{free_port()}"
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        options = "--head --num-cpus=1 --include-dashboard=false --object-store-memory=100000000 --disable-usage-stats"
        environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
        head = subprocess.Popen(
            [Path(sys.executable).with_name("ray"), "start", "--block", *options.split()]
            + [f"--port={address.rpartition(':')[2]}", f"--temp-dir={folder}"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait(lambda: Path(folder, "ray_current_cluster").exists())
        yield address, head.pid
        head.terminate()
        head.wait(LIMIT)


@pytest.fixture(autouse=True)
def without_token(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


def wait(done) -> None:
    deadline = time.monotonic() + LIMIT
    while not done() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert done()


def workers(above: int) -> list[psutil.Process]:
    """Return the processes below one that hold a model."""
    found = []
    for one in psutil.Process(above).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # Ray's short-lived processes end while they are looked at
            found += [one] if "ray::Worker" in " ".join(one.cmdline()[:1]) else []
    return found


def check_same(place: Path, output: str) -> None:
    """Check that an index has the rows of that of one process, bit for bit."""
    one, other = PhotoIndex(place / "one"), PhotoIndex(place / output)
    assert other.whole and (other.count, len(other.skipped)) == (COUNT - 2, 2)
    assert other.photos == one.photos and other.skipped == one.skipped
    assert other.features.tobytes() == one.features.tobytes()


@pytest.mark.parametrize("where", ["cluster", pytest.param("here", marks=pytest.mark.exhaustive)])
def test_killed_workers_change_nothing(place, cluster, where, monkeypatch, capfd):
    """In a cluster, or on the cores of this machine; all workers are killed once the second batch is written."""
    address, head = cluster
    add = arguments(place, where, "--engine", "ray", *(["--address", address] if where == "cluster" else []))
    append, written = IndexWriter.append, []

    def kill(self, photos, *rest):
        append(self, photos, *rest)
        written.append(photos)
        if len(written) == 2:
            for worker in workers(head if where == "cluster" else os.getpid()):
                worker.kill()

    monkeypatch.setattr(IndexWriter, "append", kill)
    load_tool("search.py").main(add)
    check_same(place, where)
    out, err = capfd.readouterr()
    assert json.loads(out[out.index("{\n") :])["encoded"] == COUNT - 2
    # Ray's own words about the lost workers are not there.
    assert "worker" not in f"{out}{err}".lower()


def test_a_cluster_that_does_not_fit_is_told(place, cluster, monkeypatch):
    ray = ("--engine", "ray", "--address", cluster[0], "--workers", "1")
    with pytest.raises(EnvironmentProblem, match="offers no NPU"):
        load_tool("search.py").main(arguments(place, "without", *ray, "runtime.device=Ascend"))
    with monkeypatch.context() as patch, pytest.raises(CheckpointError, match=r"another file on .* of every machine"):
        patch.setattr(indexing, "checkpoint_digest", lambda path: "0" * 64)
        load_tool("search.py").main(arguments(place, "other", *ray))
    assert PhotoIndex(place / "other").state["left"] == COUNT


def test_a_stop_ends_everything_and_the_next_run_goes_on(place):
    started = subprocess.Popen(
        command("search.py", *arguments(place, "stopped", "--engine", "ray", "--workers", "1")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait(lambda: workers(started.pid))
    below = psutil.Process(started.pid).children(recursive=True)
    started.send_signal(signal.SIGINT)
    out, err = started.communicate(timeout=LIMIT)
    assert (started.returncode, out) == (130, "") and "Traceback" not in err and "stopped" in err.splitlines(), err
    assert not psutil.wait_procs(below, timeout=30)[1]
    load_tool("search.py").main(arguments(place, "stopped"))
    check_same(place, "stopped")


class Fake:
    """Stands for Ray and its workers, which answer at once; `losing`: batch to the number of workers that it costs."""

    RayError = type("RayError", (Exception,), {})
    exceptions = property(lambda self: self)
    open = encode = property(lambda self: self)

    def __init__(self, losing: dict[int, int] | None = None):
        self.losing, self.killed, self.given = losing or {}, 0, []

    def options(self, num_returns):
        return self

    def remote(self, *arguments):
        return self.work(arguments[-1]) if arguments else object()

    def work(self, batches):
        self.given.append(batches)
        for batch in batches:
            if self.losing.get(batch, 0) > 0:
                self.losing[batch] -= 1
                yield self.RayError("lost")
            yield batch

    def wait(self, answers, num_returns, timeout):
        return answers[-1:], answers[:-1]  # the last one first, so that tasks end in another order

    def get(self, answer):
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self, worker):
        self.killed += 1


def encoded(fake: Fake, ahead: int = 4) -> Iterator[int]:
    tasks = [ray_engine._Task(deque(range(first, first + 5)), first) for first in range(0, 50, 5)]
    pool = ray_engine._Pool(fake, lambda: fake, ())
    pool.start()
    pool.start()
    return pool.encode(deque(tasks), ahead)


def test_batches_come_in_order_and_a_task_goes_on_where_it_was_lost():
    fake = Fake({0: 1, 17: 2, 49: 1})
    assert list(encoded(fake)) == list(range(50))
    assert fake.killed == 4 and [0, 1, 2, 3, 4] in fake.given
    assert [17, 18, 19] in fake.given


def test_a_task_that_loses_three_workers_ends_the_run():
    batches, taken = encoded(Fake({12: 3})), []
    with pytest.raises(UserError, match=r"number 11 on, has lost 3 workers \(the last one: RayError: lost\).*goes on"):
        taken.extend(batches)
    assert taken == list(range(len(taken))) and len(taken) <= 12


def test_the_end_of_ray_is_told():
    fake = Fake()
    fake.wait, fake.nodes = lambda *_, **__: ([], []), lambda: [{"Alive": False}]
    with pytest.raises(UserError, match=r"Ray has ended .* the next run goes on"):
        list(encoded(fake))


def test_only_some_tasks_are_begun_ahead_of_what_is_written():
    fake = Fake()
    assert next(encoded(fake)) == 0
    assert max(batches[0] for batches in fake.given) <= 15


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:{closed}", "127.0.0.1:{web}", "ray://127.0.0.1:{web}"])
def test_an_address_without_ray_is_told_in_seconds(place, address):
    with socketserver.TCPServer(("127.0.0.1", 0), Web) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = address.format(closed=free_port(), web=server.server_address[1])
        start = time.monotonic()
        with pytest.raises(EnvironmentProblem, match=f"--address {address}: no Ray is reached there"):
            load_tool("search.py").main(arguments(place, "none", "--engine", "ray", "--address", address))
        assert time.monotonic() - start < 20
        server.shutdown()


class Web(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_options_that_do_not_belong_together(place, monkeypatch):
    with pytest.raises(ConfigError, match="add --engine ray"):
        load_tool("search.py").main(arguments(place, "none", "--workers", "2"))
    monkeypatch.setenv("MS_ROLE", "MS_WORKER")
    with pytest.raises(ConfigError, match="without msrun"):
        load_tool("search.py").main(arguments(place, "none", "--engine", "ray"))


class Ray:
    """Names the resources of the machines of a cluster."""

    def __init__(self, *resources: dict):
        self.resources = resources

    def nodes(self):
        return [{"Alive": True, "Resources": one} for one in self.resources]


@pytest.mark.parametrize(
    ("resources", "device", "most", "expected"),
    [
        ([{"CPU": 8.0}, {"CPU": 4.0}], "auto", None, (12, {"num_cpus": 1})),
        ([{"CPU": 8.0}, {"CPU": 4.0}], "CPU", 3, (3, {"num_cpus": 4})),
        ([{"CPU": 8.0}, {"CPU": 4.0}], "CPU", 20, (12, {"num_cpus": 1})),
        ([{"CPU": 3.0}, {"CPU": 3.0}], "CPU", 3, (3, {"num_cpus": 1})),  # three of two cores would not fit
        ([{"CPU": 8.0, "NPU": 8.0}, {"CPU": 4.0}], "auto", None, (8, {"num_cpus": 1, "resources": {"NPU": 1}})),
        ([{"CPU": 8.0, "GPU": 2.0}], "GPU", 1, (1, {"num_cpus": 1, "num_gpus": 1})),
        ([{"CPU": 8.0, "GPU": 2.0}], "CPU", 4, (4, {"num_cpus": 2})),
    ],
)
def test_workers_fit_the_machines(resources, device, most, expected):
    assert ray_engine._room(Ray(*resources), device, most) == expected


def test_a_checkpoint_that_a_worker_cannot_read(tmp_path):
    with pytest.raises(CheckpointError):
        ray_engine.Worker({"path": str(tmp_path / "gone.ckpt"), "sha256": ""}, Config()).open()
