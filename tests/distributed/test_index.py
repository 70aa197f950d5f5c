"""The index that two processes bring up to date together equals that of one process, file by file."""

import shutil
from pathlib import Path

from apps.search.index_factory import MeanColour, put_photos
from distributed.launcher import launch
from tool_runner import TOOLS, load_tool

from ms_unireid.apps.search import encoding
from ms_unireid.apps.search.engines.embedded import PhotoIndex
from ms_unireid.checkpoints.checkpoint import save_checkpoint
from ms_unireid.config import load_config, to_dict
from ms_unireid.models.unireid import build_model
from ms_unireid.runtime import Processes

MODEL = ("model.architecture=tiny", "model.image_size=[32, 16]", "model.context_length=24", "runtime.device=CPU")


def checkpoint(path: Path) -> Path:
    """Save a model that encodes without compilation, which would take longer than all the rest."""
    config = load_config(None, [*MODEL, "eval.batch_size=4", "runtime.graph_mode=false"])
    save_checkpoint(path, build_model(config.model, 1).get_parameters(), {"config": to_dict(config)})
    return path


def test_two_processes_make_the_files_of_one(tmp_path):
    photos, one, two = (tmp_path / name for name in ("photos", "one", "two"))
    add = ["index", "--photos", str(photos), "--checkpoint", str(checkpoint(tmp_path / "model.ckpt")), "--output"]
    put_photos(photos, range(6))
    load_tool("search.py").main([*add, str(one)])
    (photos / "002.png").unlink()
    put_photos(photos, range(10, 27))  # with the unreadable one 18: 5 batches, of which the first process takes 3
    (photos / "012.png").write_bytes(b"no picture")
    (photos / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    shutil.copytree(one, two)
    load_tool("search.py").main([*add, str(one)])
    launched = launch(TOOLS / "search.py", *add, two, folder=tmp_path / "logs")
    assert launched.returncode == 0, launched.explain()
    files = [file.relative_to(one) for file in sorted(one.iterdir())]
    assert [file.relative_to(two) for file in sorted(two.iterdir())] == files
    for file in files:
        assert (two / file).read_bytes() == (one / file).read_bytes(), file
    index = PhotoIndex(two)
    assert index.whole and (index.count, len(index.skipped)) == (21, 2)
    told = [log.count('"encoded": 16') for name, log in sorted(launched.logs.items()) if name.startswith("worker")]
    assert sorted(told) == [0, 1]  # only the first process reports


def test_a_process_encodes_every_nth_batch_only(tmp_path, monkeypatch):
    names = [file.name for file in put_photos(tmp_path, range(22))]  # six batches of four
    work = ({1: tmp_path}, [(1, name, None) for name in names])
    monkeypatch.setattr(encoding, "broadcast_value", lambda value, source, processes: work if value == first else value)
    encoder, first = MeanColour(), ({}, ())
    encoder.processes = Processes(rank=1, size=4)
    taken = [batch and [photo.name for photo in batch.found] for batch in encoding.encode_together(encoder, tmp_path)]
    assert encoder.encoded == 8 and taken == [names[4:8]] * 4 + [names[20:]] * 2
