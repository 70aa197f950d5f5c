"""The MindNLP bridge. What needs MindNLP is skipped without it; `make test-mindnlp` runs all.

This folder is not called mindnlp: on the tests' path that would pass for the package.
"""

import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from ms_unireid.checkpoints.conversion_check import TOLERANCE, fixed_inputs, mindspore_features
from ms_unireid.checkpoints.fitting import fit
from ms_unireid.checkpoints.formats.dtypes import cast
from ms_unireid.checkpoints.formats.safetensors_file import read_safetensors, write_safetensors
from ms_unireid.checkpoints.formats.tensor_file import Entry
from ms_unireid.checkpoints.formats.torch_writer import write_torch
from ms_unireid.checkpoints.mindnlp_bridge import export_clip
from ms_unireid.checkpoints.recognition import open_source
from ms_unireid.config_schema import ARCHITECTURES, TowerSize
from ms_unireid.errors import CheckpointError, EnvironmentProblem

needs_mindnlp = pytest.mark.skipif(find_spec("mindnlp") is None, reason="MindNLP is not installed")

MAKE_CLIP = Path(__file__).with_name("make_clip.py")
IMAGE_SIZES = {"tiny": (32, 32), "ViT-B/16": (224, 224)}
CONTEXT_LENGTHS = {"tiny": 12, "ViT-B/16": 77}
LIMIT = 300  # seconds; a child needs about twenty


def tower(size: TowerSize, **values) -> dict:
    return {
        "hidden_size": size.width,
        "intermediate_size": 4 * size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "hidden_act": "quick_gelu",
        **values,
    }


def huggingface_config(name: str) -> dict:
    size = ARCHITECTURES[name]
    # With 2, as in OpenAI's files, a caption is read at its largest id; else at the first place of the given id.
    end = {"tiny": 49407, "ViT-B/16": 2}[name]
    text = tower(size.text, max_position_embeddings=CONTEXT_LENGTHS[name], vocab_size=49408, eos_token_id=end)
    vision = tower(size.vision, image_size=IMAGE_SIZES[name][0], patch_size=size.patch_size)
    return {"model_type": "clip", "projection_dim": size.embed_dim, "text_config": text, "vision_config": vision}


def make_clip(folder: Path, name: str) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(huggingface_config(name)))
    images, token_ids = fixed_inputs(IMAGE_SIZES[name], CONTEXT_LENGTHS[name])
    np.savez(folder / "inputs.npz", images=images, token_ids=token_ids.astype(np.int64))
    command = [sys.executable, str(MAKE_CLIP), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Return the folder of a random tiny CLIP, with its features as MindNLP computes them."""
    return make_clip(tmp_path_factory.mktemp("mindnlp") / "tiny", "tiny")


def assert_same_features(folder: Path, name: str, file: Path) -> None:
    export_clip(str(folder), file)
    source = open_source(file)
    assert (source.kind, source.model.architecture, source.surplus) == ("huggingface_clip", name, {})
    entries, _ = fit(source, source.model)
    tensors = {name: entry.load() for name, entry in entries.items()}
    found = mindspore_features(tensors, source.model, *fixed_inputs(IMAGE_SIZES[name], CONTEXT_LENGTHS[name]))
    expected = np.load(folder / "features.npz")
    for feats, theirs in zip(found, (expected["images"], expected["text"]), strict=True):
        largest = np.abs(theirs).max()
        difference = np.abs(feats - theirs).max()
        print(f"{name}: largest difference {difference:.2e} of features up to {largest:.2f}")
        assert feats.shape == theirs.shape
        assert difference <= TOLERANCE * max(1, largest)


@needs_mindnlp
def test_towers_equal_mindnlp(tiny, tmp_path):
    assert_same_features(tiny, "tiny", tmp_path / "clip.safetensors")


@needs_mindnlp
def test_towers_of_full_width_equal_mindnlp(tmp_path, monkeypatch):
    size = ARCHITECTURES["ViT-B/16"]
    fewer = replace(size, vision=replace(size.vision, layers=3), text=replace(size.text, layers=3))
    monkeypatch.setitem(ARCHITECTURES, "ViT-B/16", fewer)
    folder = make_clip(tmp_path / "clip", "ViT-B/16")
    assert_same_features(folder, "ViT-B/16", tmp_path / "clip.safetensors")


def copy(folder: Path, tiny: Path) -> list[Entry]:
    """Copy the tiny CLIP's configuration into a new folder, and return its tensors, alternating three types."""
    folder.mkdir()
    shutil.copy(tiny / "config.json", folder)
    tensors = dict(read_safetensors(tiny / "model.safetensors").tensors)
    assert tensors["visual_projection.weight"].shape == (32, 64)
    entries = [
        Entry.of(name, cast(array, dtype))
        for (name, array), dtype in zip(tensors.items(), itertools.cycle(("float32", "float16", "bfloat16")))
    ]
    # Beyond float16's range at both ends.
    wide = np.logspace(-30, 30, 32 * 64).astype(np.float32).reshape(32, 64)
    return [Entry.of(e.name, cast(wide, "bfloat16")) if e.name == "visual_projection.weight" else e for e in entries]


@needs_mindnlp
@pytest.mark.parametrize("file_name", ["model.safetensors", "pytorch_model.bin"])
def test_export_keeps_every_value(tiny, tmp_path, file_name):
    entries = copy(tmp_path / "clip", tiny)
    # A buffer that older files have and CLIPModel has no use for.
    stored = [*entries, Entry.of("text_model.embeddings.position_ids", np.arange(12)[None])]
    if file_name.endswith(".bin"):
        write_torch(tmp_path / "clip" / file_name, stored)
    else:
        write_safetensors(tmp_path / "clip" / file_name, stored, {"format": "pt"})
    export_clip(str(tmp_path / "clip"), tmp_path / "out.safetensors")
    found = read_safetensors(tmp_path / "out.safetensors").tensors
    assert found.keys() == {entry.name for entry in entries}
    for entry in entries:
        np.testing.assert_array_equal(found[entry.name], cast(entry.load(), "float32"), entry.name)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Serve tmp_path/hub as the only model of a hub, and return the paths that are asked for."""
    asked = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            file = tmp_path / "hub" / self.path.rsplit("/", 1)[-1]
            found = self.path.startswith("/owner/clip/resolve/main/") and file.is_file()
            self.send_response(200 if found else 404)
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag" if found else "X-Error-Code", file.name if found else "EntryNotFound")
            self.send_header("Content-Length", str(file.stat().st_size if found else 0))
            self.end_headers()
            if found and self.command == "GET":
                self.wfile.write(file.read_bytes())

        do_GET = do_POST = do_HEAD

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
        yield asked
        server.shutdown()


@needs_mindnlp
def test_a_name_on_the_hub_is_loaded_and_the_hub_asked_for_files_alone(tiny, tmp_path, hub):
    entries = copy(tmp_path / "hub", tiny)
    write_torch(tmp_path / "hub" / "pytorch_model.bin", entries)
    export_clip("owner/clip", tmp_path / "out.safetensors")
    assert read_safetensors(tmp_path / "out.safetensors").tensors.keys() == {entry.name for entry in entries}
    assert all(path.startswith("/owner/clip/resolve/main/") for path in hub), hub


def assert_refused(name: str, output: Path, message: str, error: type[Exception] = CheckpointError) -> None:
    with pytest.raises(error, match=message) as raised:
        export_clip(name, output)
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(name)
    assert not output.exists()


@needs_mindnlp
def test_a_pickle_that_asks_for_more_than_tensors_is_refused(tiny, tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    copy(tmp_path / "clip", tiny)
    with (tmp_path / "clip" / "pytorch_model.bin").open("wb") as file:
        # The head of a file from before PyTorch 1.6, which MindNLP's own reader takes.
        for value in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}, Hostile()):
            pickle.dump(value, file, 2)
    assert_refused(str(tmp_path / "clip"), tmp_path / "out.safetensors", "mkdir")
    assert not (tmp_path / "executed").exists()


@needs_mindnlp
def test_a_missing_tensor_is_named(tiny, tmp_path):
    entries = [entry for entry in copy(tmp_path / "clip", tiny) if entry.name != "text_projection.weight"]
    write_safetensors(tmp_path / "clip" / "model.safetensors", entries, {"format": "pt"})
    message = r"1 tensors of CLIP are missing \(text_projection\.weight"
    assert_refused(str(tmp_path / "clip"), tmp_path / "out.safetensors", message)


@needs_mindnlp
def test_another_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert_refused(str(tmp_path), tmp_path / "out.safetensors", "'bert'; expected 'clip'")


@needs_mindnlp
def test_a_name_that_is_not_found_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert_refused("nobody/nothing", tmp_path / "out.safetensors", "MindNLP cannot load it")


def test_without_mindnlp_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert_refused("a/clip", tmp_path / "out.safetensors", ".[mindnlp]", EnvironmentProblem)


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Return a function that puts a module of given code in MindNLP's place."""

    def install(code: str) -> None:
        (tmp_path / "mindnlp.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return install


def test_a_folder_without_config_is_refused(tmp_path, stand_in):
    stand_in("")
    assert_refused(str(tmp_path), tmp_path / "out.safetensors", r"has no config\.json")


def test_packages_that_clash_are_reported(tmp_path, stand_in):
    stand_in("import sys\nprint('early', file=sys.stderr)\nraise AttributeError('no such thing\\nmore')")
    assert_refused("a/clip", tmp_path / "out.safetensors", "AttributeError: no such thing\\)", EnvironmentProblem)


def test_a_process_that_dies_is_reported_with_its_last_line(tmp_path, stand_in, capfd):
    stand_in("import os, sys\nprint('first\\nlast', file=sys.stderr, flush=True)\nos.kill(os.getpid(), 9)")
    assert_refused("a/clip", tmp_path / "out.safetensors", r"signal 9 \(last\)")
    assert "first" in capfd.readouterr().err
