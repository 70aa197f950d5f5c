"""Fixtures of the tools' tests: a tiny synthetic data set, and the execution mode put back."""

import json
from pathlib import Path

import pytest
from tool_runner import SMALL_DATA, run_tool


@pytest.fixture(autouse=True)
def execution_mode():
    """Put back the mode that a tool's `main` sets in this process."""
    import mindspore as ms

    before = ms.get_context("mode")
    yield
    ms.set_context(mode=before)


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    done = run_tool("make_synthetic.py", "--output", root, *SMALL_DATA)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["identities"] == 20
    return root


@pytest.fixture(scope="session")
def people(tmp_path_factory) -> Path:
    """Return a folder with an index of photos, `index`, that a tiny model finds by words and drawings."""
    from apps.search.shape_people import make_checkpoint, put_gallery

    folder = tmp_path_factory.mktemp("people")
    checkpoint = make_checkpoint(folder / "model.ckpt")
    photos = put_gallery(folder / "gallery")
    done = run_tool(
        "search.py", "index", "--photos", photos, "--checkpoint", checkpoint, "--output", folder / "index",
        "runtime.graph_mode=false",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder
