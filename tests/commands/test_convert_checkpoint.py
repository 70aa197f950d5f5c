"""Conversion through the command line, and what a user does with its output."""

import json
import os
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from checkpoints.source_files import as_arrays, clip_state, save_archive, save_openai, save_unireid, unireid_state
from tool_runner import CONFIGS, TINY, TOOLS, load_tool, run_tool, train_arguments

from ms_unireid.checkpoints.recognition import open_source
from ms_unireid.config import ModelConfig
from ms_unireid.errors import UserError

TOOL = "convert_checkpoint.py"
# The command-line tests' model, as its square original and as the authors' code would save it.
SQUARE = ModelConfig(architecture="tiny", image_size=(32, 32), context_length=24)
TALL = ModelConfig(architecture="tiny", image_size=(32, 16), context_length=24)
PROTOCOLS = [
    ("text", "exclude_source_photo"),
    ("sketch", "exclude_source_photo"),
    ("fusion", "exclude_source_photo"),
    ("text", "full_gallery"),
]


def test_there_and_back(tmp_path):
    save_archive(tmp_path / "ViT.pt", clip_state(SQUARE, dtype=torch.float16))
    out = tmp_path / "clip.ckpt"
    done = run_tool(TOOL, tmp_path / "ViT.pt", out, "--image-size", 32, 16, "--json", tmp_path / "report.json")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["status", "tensor", "in", "the", "file", "shape", "type"]
    assert f"{tmp_path / 'ViT.pt'}: TorchScript archive, openai_clip" in lines
    assert "position table of 4x4 patches for pictures of 32x32; written for 32x16" in done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["counts"]["resized, cast"] == 1 and report["counts"]["buffer"] == 3
    back = run_tool(TOOL, out, tmp_path / "back.pth", "--layout", "clip", "--image-size", 32, 32)
    assert back.returncode == 0
    found = torch.load(tmp_path / "back.pth", weights_only=True)
    expected = clip_state(SQUARE, dtype=torch.float16)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[n], expected[n]) for n in expected if n != "visual.positional_embedding")


def test_it_runs_without_torch_and_mindspore(tmp_path):
    save_openai(tmp_path / "x.pth", clip_state())
    script = (
        "import runpy, sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] in ('torch', 'mindspore', 'safetensors'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        f"sys.path.insert(0, {str(TOOLS)!r})\n"
        f"sys.argv[1:] = {[str(tmp_path / 'x.pth'), str(tmp_path / 'x.ckpt')]!r}\n"
        f"runpy.run_path({str(TOOLS / TOOL)!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    arrays = open_source(tmp_path / "x.ckpt").file.tensors
    expected = as_arrays(unireid_state(clip_state()))
    assert all(arrays[name].tobytes() == value.tobytes() for name, value in expected.items())


class Malicious:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


def pickled(path, content):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(content, 2))
        archive.writestr("archive/version", "3\n")


def bad_input(what, tmp_path):
    path = tmp_path / "x.pth"
    if what == "html":
        path.write_text("<!doctype html><html><body>404 Not Found</body></html>")
    elif what == "malicious":
        pickled(path, {"visual.conv1.weight": Malicious(tmp_path / "canary")})
    elif what == "empty":
        path.write_bytes(b"")
    elif what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "names":
        torch.save({"a\x1b[2K\nerror: b\u202e" + "c" * 300: torch.ones(1)}, path)
    elif what != "missing":
        clip = clip_state()
        if what == "not finite":
            clip["visual.proj"][0, :2] = torch.tensor([float("nan"), float("inf")])
        save_openai(path, clip)
        if what == "truncated":
            path.write_bytes(path.read_bytes()[:100_000])
    return path


@pytest.mark.parametrize(
    ("what", "extra", "words"),
    [
        ("html", [], "web page"),
        ("malicious", [], "system"),
        ("truncated", [], "download"),
        ("empty", [], "empty"),
        ("folder", [], ""),
        ("missing", [], "no such file"),
        ("pipe", [], "pipe or device"),
        ("names", [], r"a\x1b[2K\nerror: b\u202ecc"),
        ("not finite", [], "'visual.proj': 1 NaN, 1 infinite"),
        ("good", ["--source-image-size", 64, 64], "--source-image-size"),
        ("good", ["--kind", "huggingface_clip"], "vision_model"),
        ("good", ["--image-size", 4, 4], "at least the patch size"),
        ("good", ["--to", "pytorch"], "ends in .pth"),
    ],
)
def test_refusals_on_the_command_line(tmp_path, what, extra, words):
    path = bad_input(what, tmp_path)
    arguments = (path, tmp_path / "out.ckpt", *extra)
    if what in ("malicious", "pipe", "names"):
        done = run_tool(TOOL, *arguments)
        assert done.returncode == 2 and done.stdout == ""
        (error,) = done.stderr.splitlines()
        assert error.startswith("error: ")
    else:
        with pytest.raises(UserError) as told:
            load_tool(TOOL).main(list(map(str, arguments)))
        error = str(told.value)
        assert "\n" not in error
    assert str(tmp_path) in error and words in error
    assert {p.name for p in tmp_path.iterdir()} <= {"x.pth"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["x.pth", "out.ckpt", "--source", "mindnlp:x"], "give either INPUT or --source"),
        (["out.ckpt"], "give either INPUT or --source"),
        (["out.ckpt", "--source", "hub:x"], "expected mindnlp:"),
        (
            ["out.ckpt", "--source", "mindnlp:x"],
            "MindNLP is not installed; install it in a separate environment (pip install",
        ),
    ],
)
def test_one_source_is_needed(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as told:
        load_tool(TOOL).main(arguments)
    assert words in str(told.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verified", [True, False], ids=["agrees", "differs"])
def test_verify(tmp_path, capsys, monkeypatch, verified):
    from ms_unireid.checkpoints import conversion_check as verify
    from ms_unireid.errors import CheckpointError

    save_archive(tmp_path / "x.pt", clip_state(SQUARE, dtype=torch.float16))
    arguments = [str(tmp_path / "x.pt"), str(tmp_path / "x.ckpt"), "--image-size", "32", "16", "--verify"]
    if verified:
        load_tool(TOOL).main(arguments)
        assert "verified against PyTorch: largest difference" in capsys.readouterr().out
        back = [str(tmp_path / "x.ckpt"), str(tmp_path / "x.pth"), "--verify"]
        load_tool(TOOL).main(back)
        assert "verified against PyTorch" in capsys.readouterr().out
    else:
        features = verify.mindspore_features
        monkeypatch.setattr(verify, "mindspore_features", lambda *a: [1.001 * f for f in features(*a)])
        with pytest.raises(CheckpointError, match=r"x\.pt: its features differ .* nothing was written"):
            load_tool(TOOL).main(arguments)
        assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]


@pytest.mark.parametrize("converted", [True, False], ids=["converted", "as it is"])
def test_evaluating_a_unireid_checkpoint_of_the_authors(data, tmp_path, capsys, converted):
    path = tmp_path / "average_best.pth"
    save_unireid(path, clip_state(TALL))
    if converted:
        load_tool(TOOL).main([str(path), str(tmp_path / "x.ckpt"), "--source-image-size", "32", "16"])
        path = tmp_path / "x.ckpt"
    capsys.readouterr()
    out = tmp_path / "rows.json"
    arguments = ["--checkpoint", path, "--config", CONFIGS / "base.yaml", "--json", out, f"data.root={data}", *TINY]
    arguments.append("runtime.graph_mode=false")
    load_tool("evaluate.py").main([str(argument) for argument in arguments])
    rows = json.loads(out.read_text())["rows"]
    assert [(row["task"], row["protocol"]) for row in rows] == PROTOCOLS
    assert all(0 <= row["R1"] <= 100 for row in rows)


@pytest.mark.exhaustive
def test_fine_tuning_from_a_converted_checkpoint(data, tmp_path):
    save_unireid(tmp_path / "x.pth", clip_state(SQUARE))
    load_tool(TOOL).main([str(tmp_path / "x.pth"), str(tmp_path / "x.ckpt"), "--image-size", "32", "16"])
    run = tmp_path / "run"
    load_tool("train.py").main(
        train_arguments(
            data, run, f"model.pretrained={tmp_path / 'x.ckpt'}", "train.epochs=1", "train.learning_rate=1e-9"
        )
    )
    source, found = open_source(tmp_path / "x.ckpt"), open_source(run / "last.ckpt")
    for name, entry in source.entries.items():
        if name != "logit_scale":
            assert np.abs(entry.load() - found.entries[name].load()).max() < 1e-6, name
