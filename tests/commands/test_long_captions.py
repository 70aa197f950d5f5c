"""Captions longer than the model reads, through the command lines: one rule from training to search and export.

Costs half a minute: three epochs of the tiny model, without compilation, and a few commands on what they leave.
"""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints.source_files import clip_state, save_openai
from tool_runner import load_tool, tensors, train_arguments

from ms_unireid.checkpoints.recognition import open_source
from ms_unireid.config import ModelConfig
from ms_unireid.errors import DataError, UserError
from ms_unireid.models.positions import stretch_positions

SENTENCES = ["A man in a red coat.", "He carries a black bag and a hat.", "He wears blue shoes.", "His hair is brown."]
STRETCH = ("model.context_length=100", "data.long_captions=stretch")
UNCOMPILED = "runtime.graph_mode=false"


def here(tool: str, *arguments: object) -> None:
    load_tool(tool).main(list(map(str, arguments)))


def trained(data: Path, run: Path, *overrides: str) -> tuple[Path, str]:
    """Train for an epoch; return the run's folder and what was said on stderr."""
    said = io.StringIO()
    brief = ("train.epochs=1", "data.batch_size=24", UNCOMPILED, "eval.splits=[val]", *overrides)
    with contextlib.redirect_stderr(said):
        here("train.py", *train_arguments(data, run, *brief))
    return run, said.getvalue()


@pytest.fixture(scope="module")
def cut(data, tmp_path_factory):
    return trained(data, tmp_path_factory.mktemp("cut") / "run")


@pytest.fixture(scope="module")
def split(data, tmp_path_factory):
    return trained(data, tmp_path_factory.mktemp("split") / "run", "data.long_captions=split")


@pytest.fixture(scope="module")
def stretched(data, cut, tmp_path_factory):
    """Train from the run that cuts, by a rate that changes no weight."""
    start = (f"model.pretrained={cut[0] / 'last.ckpt'}", "train.learning_rate=1e-30", "train.final_learning_rate=0")
    return trained(data, tmp_path_factory.mktemp("stretched") / "run", *STRETCH, *start)


def test_a_run_says_what_becomes_of_long_captions(cut, split, stretched):
    assert "of 72 training captions have more than 24 tokens: they are cut, see data.long_captions" in cut[1]
    assert "of 72 training captions have more than 24 tokens: an epoch trains with one piece of each" in split[1]
    assert "training captions" not in stretched[1]
    first, second = (tensors(run / "last.ckpt")["base_model.text_projection"] for run, _ in (cut, split))
    assert first != second


def test_evaluation_takes_the_rule_of_the_checkpoint(split, capsys):
    def rows(*overrides: str) -> str:
        here("evaluate.py", "--checkpoint", split[0] / "last.ckpt", "--split", "val", UNCOMPILED, *overrides)
        return capsys.readouterr().out

    assert rows() == rows("data.long_captions=split") != rows("data.long_captions=cut")


def positions(checkpoint: Path) -> np.ndarray:
    return open_source(checkpoint).entries["base_model.positional_embedding"].load()


def test_a_stretched_table_keeps_its_bits_in_every_format(cut, stretched, tmp_path):
    before, after = (positions(run / "last.ckpt") for run, _ in (cut, stretched))
    np.testing.assert_array_equal(after, stretch_positions(before, 100))
    for layout in ("unireid", "clip", "huggingface"):
        there, back = tmp_path / f"{layout}.pth", tmp_path / f"{layout}.ckpt"
        here("convert_checkpoint.py", stretched[0] / "last.ckpt", there, "--layout", layout)
        here("convert_checkpoint.py", there, back, "--source-image-size", 32, 16)
        assert positions(back).tobytes() == after.tobytes()
        config = open_source(back).meta["config"]
        assert (config["model"]["context_length"], config["data"]["long_captions"]) == (100, "stretch")


def scores(capsys, index: Path, *texts: str) -> tuple[list[float], list[str]]:
    """Return the scores of all photos in the order of their rows, and the notes."""
    capsys.readouterr()
    given = [word for text in texts for word in ("--text", text)]
    here(
        "search.py", "query", "--index", index, *given, "--top-k", 50, "--json", index.parent / "found.json", UNCOMPILED
    )
    (query,) = json.loads((index.parent / "found.json").read_text(encoding="utf-8"))
    return [hit["score"] for hit in sorted(query["hits"], key=lambda hit: hit["row"])], query["notes"]


def test_a_query_is_read_as_the_index_says(data, cut, split, tmp_path, capsys):
    """A long description then counts as its sentences do when they are given one by one."""
    kept = {}
    for name, (run, _) in {"cut": cut, "split": split}.items():
        photos = ("--dataset", "cuhk_pedes", "--root", data, "--split", "val")
        index = tmp_path / name
        here("search.py", "index", *photos, "--checkpoint", run / "last.ckpt", "--output", index, UNCOMPILED)
        kept[name] = scores(capsys, index, " ".join(SENTENCES)), scores(capsys, index, *SENTENCES)
    (long, notes), (apart, no_notes) = kept["split"]
    np.testing.assert_allclose(long, apart, atol=2e-6)
    assert "22 tokens at once: its 4 parts are read one by one" in notes[0] and not no_notes
    (long, notes), (apart, _) = kept["cut"]
    assert np.abs(np.subtract(long, apart)).max() > 1e-4 and "reads the first 22 tokens" in notes[0]
    # The rule is a part of how an index was made.
    with pytest.raises(DataError, match=r"was made with model .* not .*'long_captions': 'split'"):
        here("search.py", "index", "--output", tmp_path / "cut", "data.long_captions=split", UNCOMPILED)


def test_a_clip_is_stretched_wherever_it_is_used(data, tmp_path, capsys):
    """A CLIP's own file, in an index, whose queries need no option, and in an export."""
    save_openai(
        tmp_path / "clip.pth", clip_state(ModelConfig("tiny", (32, 32), context_length=77), dtype=torch.float16)
    )
    photos = ("--dataset", "cuhk_pedes", "--root", data, "--split", "val")
    start = ("--checkpoint", tmp_path / "clip.pth", *STRETCH, UNCOMPILED)
    here("search.py", "index", *photos, "--output", tmp_path / "index", *start)
    long = "red " * 80
    assert scores(capsys, tmp_path / "index", long)[1] == []
    assert "reads the first 98 tokens" in scores(capsys, tmp_path / "index", "red " * 120)[1][0]
    here("export_model.py", "--output", tmp_path / "out", "--formats", "onnx", *start)
    tokens = json.loads((tmp_path / "out" / "input_specification.json").read_text(encoding="utf-8"))["inputs"][
        "token_ids"
    ]
    assert tokens["shape"] == ["batch", 100] and tokens["row"].endswith("is cut and ends in the end token")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.context_length=100"], "data.long_captions=stretch allows up to 248"),
        (["data.long_captions=stretch"], "model.context_length must be between 78 and 248 tokens with"),
        (["model.context_length=30", "model.pretrained={}"], "reads captions of 24 tokens, and the model of 30; set"),
    ],
)
def test_a_contradiction_is_one_line_before_training(data, cut, tmp_path, overrides, words):
    overrides = [one.format(cut[0] / "last.ckpt") for one in overrides]
    with pytest.raises(UserError) as caught:
        here("train.py", *train_arguments(data, tmp_path / "run", *overrides))
    assert words in str(caught.value) and "\n" not in str(caught.value) and not (tmp_path / "run").exists()
