"""Files that the page hands over, on a full disk."""

import asyncio
import functools
import sys
import tempfile
from types import SimpleNamespace

import pytest
from fastapi import FastAPI

from ms_unireid.apps.web.hand_over import Downloads
from ms_unireid.errors import UserError


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
@pytest.mark.parametrize("size", [1, 10**6])  # within the file's buffer, and beyond
def test_a_full_disk_is_told(monkeypatch, size):
    monkeypatch.setattr(tempfile, "TemporaryFile", functools.partial(open, "/dev/full", "r+b"))
    with pytest.raises(UserError, match=r"No space left on device.*; free space for temporary files"):
        asyncio.run(Downloads(FastAPI()).make(SimpleNamespace(to_csv=lambda: "x" * size), "csv", print))


def test_a_machine_without_a_temporary_folder_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(UserError, match=r"No such file or directory.*; free space for temporary files"):
        asyncio.run(Downloads(FastAPI()).make(SimpleNamespace(to_csv=str), "csv", print))
