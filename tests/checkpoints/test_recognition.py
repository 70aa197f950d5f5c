"""Recognition by content: every kind of file, whatever its name, gives CLIP's tensors bit for bit."""

import json
import shutil

import numpy as np
import pytest
import torch
from checkpoints.source_files import (
    SOURCES,
    SQUARE,
    as_arrays,
    clip_state,
    huggingface_state,
    save_huggingface_folder,
    save_openai,
    save_unireid,
    unireid_state,
)
from parity import TINY

from ms_unireid.checkpoints.fitting import fit
from ms_unireid.checkpoints.formats.mindspore_file import write_mindspore
from ms_unireid.checkpoints.formats.tensor_file import Entry
from ms_unireid.checkpoints.recognition import META, open_source
from ms_unireid.config import Config, ModelConfig, to_dict
from ms_unireid.errors import CheckpointError, UserError

GELU = "gelu"


def loaded(source) -> dict[str, np.ndarray]:
    return {name: entry.load() for name, entry in source.entries.items()}


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return first.keys() == second.keys() and all(
        first[n].shape == second[n].shape and first[n].tobytes() == second[n].tobytes() for n in first
    )


@pytest.mark.parametrize("what", SOURCES)
def test_every_kind_is_recognised_by_content(tmp_path, what):
    kind, name, save = SOURCES[what]
    clip = clip_state()
    save(tmp_path / name, clip)
    path = tmp_path / "x.bin"
    (tmp_path / name).rename(path)
    source = open_source(path)
    assert source.kind == kind
    expected = as_arrays(clip)
    if kind == "irra":
        del expected["logit_scale"]
    assert same(loaded(source), expected)
    assert source.model.architecture == "tiny" and source.model.image_size == (32, 32) and source.grid == (4, 4)
    assert source.model.context_length == 12 and source.model.stride is None
    assert all(entry.dtype == np.float32 and entry.shape == expected[n].shape for n, entry in source.entries.items())


def test_what_is_not_used_is_told_apart(tmp_path):
    save_unireid(tmp_path / "x.pth", clip_state())
    source = open_source(tmp_path / "x.pth")
    assert set(source.surplus.values()) == {"optimizer state"} and source.file.values["epoch"] == 7
    SOURCES["irra"][2](tmp_path / "irra.pth", clip_state())
    assert set(open_source(tmp_path / "irra.pth").surplus.values()) == {"extra"}
    SOURCES["openai archive"][2](tmp_path / "archive.pt", clip_state())
    assert open_source(tmp_path / "archive.pt").surplus == {
        name: "buffer" for name in ("input_resolution", "context_length", "vocab_size")
    }


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_unireid_without_its_base_model_prefix(tmp_path, prefix):
    state = {prefix + name: value for name, value in clip_state().items()}
    torch.save({"model": state, "num_epoch": 60, "iteration": 0, "epoch": 2}, tmp_path / "x.pth")
    source = open_source(tmp_path / "x.pth")
    assert source.kind == "unireid" and same(loaded(source), as_arrays(clip_state()))


def test_a_mindspore_file_of_ours(tmp_path):
    arrays = as_arrays(unireid_state(clip_state(TINY)))
    meta = {"config": to_dict(Config(model=TINY)), "epoch": 4}
    entries = [Entry.of(name, array) for name, array in arrays.items()]
    write_mindspore(tmp_path / "x.ckpt", entries, {META: json.dumps(meta)})
    source = open_source(tmp_path / "x.ckpt")
    assert source.kind == "ms_unireid" and source.meta == meta and source.grid == (4, 2) and source.model == TINY
    write_mindspore(tmp_path / "bare.ckpt", entries, {})
    with pytest.raises(CheckpointError, match=r"bare\.ckpt: is a MindSpore checkpoint, but not a whole one"):
        open_source(tmp_path / "bare.ckpt")
    assert open_source(tmp_path / "bare.ckpt", kind="unireid", image_size=(32, 16)).grid == (4, 2)


def test_kind_overrides(tmp_path):
    save_openai(tmp_path / "x.pth", clip_state())
    assert open_source(tmp_path / "x.pth", kind="open_clip").kind == "open_clip"
    with pytest.raises(CheckpointError, match=r"nothing is called vision_model\.embeddings"):
        open_source(tmp_path / "x.pth", kind="huggingface_clip")


@pytest.mark.parametrize(
    ("config", "given", "grid", "stride"),
    [
        (SQUARE, None, (4, 4), None),
        (SQUARE, (64, 16), (8, 2), None),  # as many patches as the square, in another shape
        (TINY, (32, 16), (4, 2), None),
        (TINY, (16, 32), (2, 4), None),
        (ModelConfig("tiny", (384, 128), context_length=12), None, (48, 16), None),
        (ModelConfig("tiny", (256, 128), context_length=12), None, (32, 16), None),
        (ModelConfig("tiny", (384, 128), stride=6, context_length=12), None, (63, 21), 6),
        (ModelConfig("tiny", (32, 16), stride=4, context_length=12), (32, 16), (7, 3), 4),
    ],
)
def test_the_grid_of_the_position_table(tmp_path, config, given, grid, stride):
    save_openai(tmp_path / "x.pth", clip_state(config))
    source = open_source(tmp_path / "x.pth", image_size=given)
    assert source.grid == grid and source.model.stride == stride
    assert source.model.image_size == tuple(given or config.image_size)


def test_a_table_of_no_usual_size(tmp_path):
    save_openai(tmp_path / "x.pth", clip_state(TINY))
    source = open_source(tmp_path / "x.pth")
    assert source.grid is None and source.patches == 8
    with pytest.raises(CheckpointError, match=r"8 patches .* pictures of 64x64 .*correct --source-image-size"):
        open_source(tmp_path / "x.pth", image_size=(64, 64))


def test_the_activation_is_the_files_where_it_has_one(tmp_path):
    save_huggingface_folder(tmp_path / "quick", clip_state())
    save_huggingface_folder(tmp_path / "exact", clip_state(), GELU)
    assert open_source(tmp_path / "quick").activation == "quick_gelu"
    assert open_source(tmp_path / "exact").model.activation == GELU
    assert open_source(tmp_path / "quick", activation=GELU).model.activation == GELU
    save_openai(tmp_path / "x.pth", clip_state())
    source = open_source(tmp_path / "x.pth")
    assert source.activation is None and source.model.activation == "quick_gelu"
    shutil.rmtree(tmp_path / "exact")
    save_huggingface_folder(tmp_path / "exact", clip_state(), "silu")
    with pytest.raises(CheckpointError, match="hidden_act silu; expected quick_gelu or gelu"):
        open_source(tmp_path / "exact")


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({"fc.weight": torch.ones(2)}, "is no CLIP with a vision transformer"),
        ({}, "is no CLIP"),
        ({"visual.conv1.weight": torch.ones(32, 3, 3, 3), "visual.layer1.0.conv1.weight": torch.ones(2)}, "not one of"),
        ({f"{p}visual.conv1.weight": torch.ones(64, 3, 8, 8) for p in ("model.", "ema.")}, "holds several models"),
        (
            {"visual.conv1.weight": torch.ones(64, 3, 8, 8)},
            "expected a position table visual.positional_embedding .* found none",
        ),
    ],
)
def test_what_is_no_dual_encoder_is_refused(tmp_path, state, told):
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=told) as caught:
        open_source(tmp_path / "x.pth")
    assert str(caught.value).startswith(f"{tmp_path}/x.pth: ")


ODD = (
    torch.tensor(1.0),
    torch.ones(0),
    torch.ones(1),
    torch.ones(2, 0),
    torch.ones(1, 1),
    torch.ones(2, 2, 2, 2, 2),
    torch.ones(3, dtype=torch.int64),
    torch.tensor(True),
)


@pytest.mark.parametrize("seed", range(60))
def test_tensors_of_odd_shapes_and_types_are_refused_in_words(tmp_path, seed):
    """Whatever stands under a known name, the answer is the project's own error or a whole model."""
    rng = np.random.default_rng(seed)
    clip = clip_state()
    state = huggingface_state(clip) if seed % 2 else clip
    replaced = rng.choice(list(state), rng.integers(1, 4), replace=False)
    for name in replaced:
        state[name] = ODD[rng.integers(len(ODD))]
    torch.save(state, tmp_path / "x.pth")
    try:
        entries, _ = fit(open_source(tmp_path / "x.pth"), SQUARE)
    except CheckpointError as error:
        assert str(error).startswith(f"{tmp_path}/x.pth: ") and "\n" not in str(error)
    else:
        # A number is a fine logit scale, and nobody needs the buffers.
        assert all(name.endswith(("position_ids", "logit_scale")) for name in replaced)
        assert {name: entry.load().shape for name, entry in entries.items()} == {n: v.shape for n, v in clip.items()}


@pytest.mark.parametrize(
    "description", ["[1]", "3", "{", '"text"', '{"epoch": 1}', '{"config": 3}', '{"config": {"model": 3}}']
)
def test_a_damaged_description_is_refused(tmp_path, description):
    entries = [Entry.of(name, array) for name, array in as_arrays(unireid_state(clip_state())).items()]
    write_mindspore(tmp_path / "x.ckpt", entries, {META: description})
    with pytest.raises(UserError, match=r"x\.ckpt: "):
        open_source(tmp_path / "x.ckpt")


@pytest.mark.parametrize("content", ["[1]", '{"vision_config": 3}', '{"vision_config": {"image_size": "a"}}'])
def test_an_odd_config_json_is_no_crash(tmp_path, content):
    save_huggingface_folder(tmp_path / "x", clip_state())
    (tmp_path / "x" / "config.json").write_text(content)
    try:
        assert open_source(tmp_path / "x").grid == (4, 4)
    except CheckpointError as error:
        assert str(tmp_path) in str(error)
