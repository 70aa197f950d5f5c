"""An index that tests of the command line and of the page search."""

from pathlib import Path

import pytest
from tool_runner import run_tool


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
