"""Fixtures of every test, the execution mode and the slice of real data; and how tests are dealt to workers."""

import os

# Without it a compiled step keeps one of the cores busy waiting; it must be set before MindSpore is imported.
os.environ["MS_DEV_RUNTIME_CONF"] = "graph_pipeline:false"

# Each worker of `pytest -n` takes one core; threads of several would wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

# Where most of the time goes: begun first, so that no worker is left with a long file at the end.
SLOW_FIRST = (
    "tools/test_train_and_evaluate",
    "training/test_train_step",
    "distributed",
    "tools",
    "training",
    "models",
    "conversion",
)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config, items):
    """For `pytest -n N --dist loadgroup`: a file's tests share a worker, and so do all that build the whole ViT-B/16.

    Two of these at once would not fit into the memory of a small machine.
    """
    if not config.pluginmanager.hasplugin("xdist"):
        return
    folder = config.rootpath / "tests"
    names = {item: str(item.path.relative_to(folder)) for item in items}
    large = {names[item] for item in items if item.get_closest_marker("full_size")}
    for item in items:
        item.add_marker(pytest.mark.xdist_group("full size" if names[item] in large else names[item]))
    if config.getoption("dist", "no") != "no" or "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: _turn(names[item]))


def _turn(name):
    return next((i for i, start in enumerate(SLOW_FIRST) if name.startswith(start)), len(SLOW_FIRST))


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
