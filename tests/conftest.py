"""Fixtures for all tests, the execution mode, the slice of real data, and the distribution of tests to workers."""

import gc
import json
import os
import sys
from pathlib import Path

# Without it a compiled step keeps one of the cores busy waiting; it must be set before MindSpore is imported.
os.environ["MS_DEV_RUNTIME_CONF"] = "graph_pipeline:false"
# Without compilation the threads that prepare and launch operations otherwise wait for each other, five times as long
# as the tiny operations of these tests take; child processes inherit it.
os.environ["MS_DEV_LAUNCH_BLOCKING"] = "1"

# Each worker of `pytest -n` takes one core; threads of several would wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from tool_runner import SMALL_DATA, run_tool

TESTS = Path(__file__).resolve().parent
# `make check` runs the tests of these files; one of them that takes more than three seconds is marked slow.
FAST = (
    "test_",
    "apps/checks",
    "apps/paper",
    "apps/search/test_photo_facts",
    "apps/synthetic",
    "checkpoints/formats",
    "commands/test_main",
    "data",
    "evaluation",
    "fuzz",
    "reference",
)
# Where most of the time goes: begun first, so that no worker is left with a long file at the end.
SLOW_FIRST = (
    "commands/test_train_and_evaluate",
    "training/test_train_step",
    "distributed",
    "commands",
    "training",
    "models",
    "checkpoints",
)


def pytest_collection_modifyitems(items):
    """Mark the tests that `make check` leaves out; with several workers, begin with the slow tests."""
    for item in items:
        if not str(item.path.relative_to(TESTS)).startswith(FAST):
            item.add_marker("slow")
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: _turn(str(item.path.relative_to(TESTS))))


def pytest_collection_finish():
    """Keep what is there: MindSpore collects garbage whenever it compiles; half a second of it would be the tests."""
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """For `pytest -n N`: a file's tests share a worker, and so do all files that build the whole ViT-B/16.

    Two of these at once would not fit into the memory of a small machine.
    """
    from xdist.scheduler import LoadScopeScheduling

    large = {file.name for file in TESTS.rglob("test_*.py") if "mark.full_size" in file.read_text(encoding="utf-8")}

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0]
            return "full size" if file.rpartition("/")[2] in large else file

    return ByFile(config, log)


def _turn(name):
    return next((i for i, start in enumerate(SLOW_FIRST) if name.startswith(start)), len(SLOW_FIRST))


@pytest.fixture(autouse=True)
def execution_mode():
    """Put back the mode that a command's `main` sets in this process."""
    before = sys.modules["mindspore"].get_context("mode") if "mindspore" in sys.modules else None
    yield
    if "mindspore" in sys.modules:
        ms = sys.modules["mindspore"]
        ms.set_context(mode=ms.PYNATIVE_MODE if before is None else before)


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Return the root of a tiny synthetic data set."""
    root = tmp_path_factory.mktemp("data")
    done = run_tool("make_synthetic.py", "--output", root, *SMALL_DATA)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["identities"] == 20
    return root


@pytest.fixture(params=["graph", "pynative"])
def mode(request):
    """Run the test once in each execution mode, and put the mode back."""
    import mindspore as ms

    before = ms.get_context("mode")
    ms.set_context(mode=ms.GRAPH_MODE if request.param == "graph" else ms.PYNATIVE_MODE)
    yield request.param
    ms.set_context(mode=before)


@pytest.fixture
def pynative():
    """Run the test without compilation, and put the mode back."""
    import mindspore as ms

    before = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=before)


@pytest.fixture
def graph():
    """Compile what the test calls, and put the mode back."""
    import mindspore as ms

    before = ms.get_context("mode")
    ms.set_context(mode=ms.GRAPH_MODE)
    yield
    ms.set_context(mode=before)


@pytest.fixture(scope="session")
def real_root():
    """Return the folder with the slice of real data (UNIREID_REAL_DATA or ../shared/data), or skip the test."""
    from data.tri_factory import real_data

    return real_data()
