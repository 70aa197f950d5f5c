"""Fixtures of every test: the execution mode and the slice of real data."""

import os

# Without it a compiled step keeps one of the cores busy waiting; it must be set before MindSpore is imported.
os.environ["MS_DEV_RUNTIME_CONF"] = "graph_pipeline:false"

import pytest


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
