"""Verification of conversions: PyTorch's own features of real files, and wrong conversions."""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints.source_files import SOURCES, SQUARE, clip_state, save_openai, unireid_state
from parity import reference_for

from ms_unireid.checkpoints.conversion_check import fixed_inputs, verify
from ms_unireid.checkpoints.torch_features import torch_features
from ms_unireid.config import ModelConfig
from ms_unireid.errors import CheckpointError, EnvironmentProblem
from ms_unireid.models.positions import patch_grid, resize_positions

pytestmark = pytest.mark.usefixtures("pynative")

ROOT = Path(__file__).resolve().parents[2]
POSITIONS = "base_model.visual.positional_embedding"
IN_PROJ = "base_model.visual.transformer.resblocks.1.attn.in_proj_weight"
PATCH = 8
Tensors = dict[str, np.ndarray]


def grid_of(config: ModelConfig) -> tuple[int, int]:
    return patch_grid(config.image_size, PATCH, config.stride or PATCH)


def converted(clip: dict[str, torch.Tensor], source: ModelConfig, target: ModelConfig) -> Tensors:
    """Convert a CLIP as it should be."""
    tensors = {name: value.float().numpy().copy() for name, value in unireid_state(clip).items()}
    tensors[POSITIONS] = resize_positions(tensors[POSITIONS], grid_of(target), grid_of(source))
    return tensors


def reference_features(tensors: Tensors, config: ModelConfig) -> tuple[np.ndarray, np.ndarray]:
    """Encode the fixed inputs with the reference model."""
    model = reference_for(config, 0)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})
    if config.activation == "gelu":
        for block in [*model.base_model.visual.transformer.resblocks, *model.base_model.transformer.resblocks]:
            block.mlp.gelu = torch.nn.GELU()
    images, token_ids = fixed_inputs(config.image_size, config.context_length)
    with torch.no_grad():
        image = model.encode_image(torch.from_numpy(images))
        return image.numpy(), model.encode_text(torch.from_numpy(token_ids).long()).numpy()


def original_features(path: Path, source: ModelConfig, target: ModelConfig) -> tuple[np.ndarray, np.ndarray]:
    return torch_features(path, target, grid_of(source), *fixed_inputs(target.image_size, target.context_length))


def saved(folder: Path, config: ModelConfig = SQUARE) -> tuple[Path, Tensors]:
    """Save a CLIP as OpenAI's, and convert it without a change of size."""
    clip = clip_state(config)
    save_openai(folder / "clip.pth", clip)
    return folder / "clip.pth", converted(clip, config, config)


def swap_query_and_key(tensors: Tensors) -> None:
    query, key, value = np.split(tensors[IN_PROJ], 3)
    tensors[IN_PROJ] = np.concatenate([key, query, value])


def transpose_a_projection(tensors: Tensors) -> None:
    name = "base_model.transformer.resblocks.0.attn.out_proj.weight"
    tensors[name] = tensors[name].T.copy()


def lose_one_value(tensors: Tensors) -> None:
    tensors["base_model.ln_final.bias"][3] = np.nan


@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_of_file_gives_the_reference_features(tmp_path, kind):
    _, name, save = SOURCES[kind]
    clip = clip_state()
    save(tmp_path / name, clip)
    found = original_features(tmp_path / name, SQUARE, SQUARE)
    for feats, expected in zip(found, reference_features(converted(clip, SQUARE, SQUARE), SQUARE), strict=True):
        assert feats.dtype == np.float32
        np.testing.assert_allclose(feats, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("source_size", "changes"),
    [
        ((32, 32), {"image_size": (32, 16)}),
        ((32, 16), {"image_size": (16, 40)}),
        ((32, 16), {"image_size": (16, 32)}),
        ((32, 32), {"image_size": (35, 19), "stride": 5}),
        ((32, 32), {"activation": "gelu"}),
    ],
    ids=str,
)
def test_other_sizes_and_activations_agree_three_ways(tmp_path, source_size, changes):
    source, target = replace(SQUARE, image_size=source_size), replace(SQUARE, **changes)
    clip = clip_state(source)
    save_openai(tmp_path / "clip.pth", clip)
    tensors = converted(clip, source, target)
    found = original_features(tmp_path / "clip.pth", source, target)
    for feats, expected in zip(found, reference_features(tensors, target), strict=True):
        np.testing.assert_allclose(feats, expected, rtol=0, atol=1e-5)
    result = verify(tmp_path / "clip.pth", grid_of(source), target, tensors)
    assert result.ok, result


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("openai archive", torch.float16),
        ("openai archive", torch.float64),
        ("openai state dict", torch.bfloat16),
        ("openai state dict, safetensors", torch.float16),
    ],
)
def test_other_types_are_cast_to_float32_before_computing(tmp_path, kind, dtype):
    _, name, save = SOURCES[kind]
    clip = clip_state(dtype=dtype)
    save(tmp_path / name, clip)
    found = original_features(tmp_path / name, SQUARE, SQUARE)
    for feats, expected in zip(found, reference_features(converted(clip, SQUARE, SQUARE), SQUARE), strict=True):
        np.testing.assert_allclose(feats, expected, rtol=0, atol=1e-5)


def test_verifies_in_graph_mode(tmp_path, graph):
    original, tensors = saved(tmp_path)
    assert verify(original, grid_of(SQUARE), SQUARE, tensors).ok


@pytest.mark.parametrize("spoil", [swap_query_and_key, transpose_a_projection, lose_one_value])
def test_a_wrong_conversion_is_caught(tmp_path, spoil: Callable[[Tensors], None]):
    original, tensors = saved(tmp_path)
    right = verify(original, grid_of(SQUARE), SQUARE, tensors)
    spoil(tensors)
    wrong = verify(original, grid_of(SQUARE), SQUARE, tensors)
    assert right.ok and not wrong.ok
    assert right.image_difference <= right.image_limit < 1e-3


def test_a_table_that_was_not_resized_is_caught(tmp_path):
    source, target = replace(SQUARE, image_size=(32, 16)), replace(SQUARE, image_size=(16, 32))
    original, tensors = saved(tmp_path, source)
    assert tensors[POSITIONS].shape == (9, 64)
    result = verify(original, grid_of(source), target, tensors)
    assert not result.ok and result.text_difference <= result.text_limit


def test_the_wrong_activation_is_caught(tmp_path):
    _, tensors = saved(tmp_path)
    quick, exact = (reference_features(tensors, replace(SQUARE, activation=a)) for a in ("quick_gelu", "gelu"))
    assert min(np.abs(q - e).max() for q, e in zip(quick, exact, strict=True)) > 1e-3


def test_a_missing_tensor_of_a_conversion_is_named(tmp_path):
    original, tensors = saved(tmp_path)
    del tensors[IN_PROJ]
    with pytest.raises(CheckpointError, match=rf"clip\.pth: its conversion has no {IN_PROJ}; only a complete model"):
        verify(original, grid_of(SQUARE), SQUARE, tensors)


def test_the_logit_scale_is_not_needed(tmp_path):
    original, tensors = saved(tmp_path)
    del tensors["logit_scale"]
    assert verify(original, grid_of(SQUARE), SQUARE, tensors).ok


class Writer(torch.nn.Module):
    """A module whose archive, when torch.jit.load opens it, writes a file."""

    def __init__(self, target: str):
        super().__init__()
        self.target = target
        self.weight = torch.nn.Parameter(torch.ones(1))

    @torch.jit.export
    def __getstate__(self):
        return self.weight, self.target, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, str, bool]):
        self.weight, self.target, self.training = state
        torch.save(self.weight, self.target)

    def forward(self):
        return self.weight


def test_the_program_of_an_archive_is_not_run(tmp_path):
    target = tmp_path / "written"
    torch.jit.save(torch.jit.script(Writer(str(target))), str(tmp_path / "archive.pt"))
    with pytest.raises(CheckpointError, match=r"archive\.pt: PyTorch cannot read it"):
        original_features(tmp_path / "archive.pt", SQUARE, SQUARE)
    assert not target.exists()
    torch.jit.load(str(tmp_path / "archive.pt"))
    assert target.exists()


class Command:
    """Unpickled, it would run a command."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        import os

        return os.system, (self.command,)


def test_a_pickle_with_a_call_is_refused(tmp_path):
    torch.save({"model": Command(f"touch {tmp_path}/ran")}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"x\.pth: PyTorch cannot read it \("):
        original_features(tmp_path / "x.pth", SQUARE, SQUARE)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weight": torch.ones(2)}, "PyTorch finds no CLIP"),
        ({"visual.class_embedding": torch.ones(2)}, r"has no tensor visual\.conv1\.weight"),
    ],
)
def test_a_file_without_a_whole_clip_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=rf"x\.pth: {message}.*; only a complete CLIP"):
        original_features(tmp_path / "x.pth", SQUARE, SQUARE)


@pytest.mark.parametrize("content", [b"", b"<html>", b"PK\3\4 cut short", b"12345678{"])
def test_a_file_that_torch_cannot_read_is_refused(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.pth: PyTorch cannot read it") as error:
        original_features(tmp_path / "x.pth", SQUARE, SQUARE)
    assert "\n" not in str(error.value)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"has none of model\.safetensors\.index\.json, "):
        original_features(tmp_path, SQUARE, SQUARE)


def test_safetensors_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    _, name, save = SOURCES["openai state dict, safetensors"]
    save(tmp_path / name, clip_state())
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(EnvironmentProblem, match="pip install safetensors"):
        original_features(tmp_path / name, SQUARE, SQUARE)


def test_a_torch_that_cannot_be_imported_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(EnvironmentProblem, match=r"PyTorch cannot be imported \(.*\); pip install torch"):
        original_features(tmp_path, SQUARE, SQUARE)


def test_fixed_inputs_are_the_same_everywhere():
    images, token_ids = fixed_inputs((384, 128), 77)
    assert (images.shape, images.dtype) == ((2, 3, 384, 128), np.float32)
    assert (token_ids.shape, token_ids.dtype) == ((2, 77), np.int32)
    assert -2 < images.min() < -1.5 and 1.5 < images.max() < 2.5
    digest = hashlib.sha256(images.astype("<f4").tobytes() + token_ids.astype("<i4").tobytes()).hexdigest()
    assert digest[:16] == "abb6bdd22702a64a"


@pytest.mark.parametrize("length", [3, 12, 77])
def test_fixed_captions_have_a_start_words_an_end_and_padding(length):
    _, token_ids = fixed_inputs((8, 8), length, count=50)
    for row in token_ids:
        end = int(row.argmax())
        assert row[0] == 49406 and row[end] == 49407 and end >= 2
        assert np.all((row[1:end] >= 1) & (row[1:end] < 49406)) and not row[end + 1 :].any()


def test_without_torch_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(EnvironmentProblem, match=r"clip\.pth: --verify needs PyTorch; pip install torch"):
        verify(tmp_path / "clip.pth", (4, 4), SQUARE, {})


def test_torch_is_not_imported_with_the_modules():
    modules = "ms_unireid.checkpoints.conversion_check, ms_unireid.checkpoints.torch_features"
    script = f"import sys, {modules}; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
