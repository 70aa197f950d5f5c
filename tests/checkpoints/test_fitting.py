"""Fitting a file to a model: positions resized as in PyTorch, half precision cast up, missing tensors reported."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from checkpoints.source_files import SQUARE, as_arrays, clip_state, save_irra, save_openai

from ms_unireid.checkpoints.clip_names import clip_name
from ms_unireid.checkpoints.fitting import fit
from ms_unireid.checkpoints.formats.dtypes import cast
from ms_unireid.checkpoints.recognition import open_source
from ms_unireid.errors import CheckpointError
from ms_unireid.models.positions import stretch_positions

VISUAL_POSITIONS = "visual.positional_embedding"
TARGET = replace(SQUARE, image_size=(48, 16))


def fitted(path, model=SQUARE, allow_missing=(), **source):
    entries, rows = fit(open_source(path, **source), model, allow_missing)
    return {clip_name(name): entry.load() for name, entry in entries.items()}, {row.name: row for row in rows}


def save(tmp_path, clip):
    save_openai(tmp_path / "x.pth", clip)
    return tmp_path / "x.pth"


def interpolated(table: torch.Tensor, before: tuple[int, int], after: tuple[int, int]) -> np.ndarray:
    grid = table[1:].float().T.reshape(1, -1, *before)
    resized = F.interpolate(grid, size=after, mode="bilinear", align_corners=False, antialias=False)
    return torch.cat([table[:1].float(), resized.flatten(2)[0].T]).numpy()


def test_an_equal_model_is_matched_bit_for_bit(tmp_path):
    clip = clip_state()
    arrays, rows = fitted(save(tmp_path, clip))
    assert all(arrays[name].tobytes() == value.tobytes() for name, value in as_arrays(clip).items())
    assert {row.status for row in rows.values()} == {"matched"} and len(rows) == len(clip)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_cast_to_float32(tmp_path, dtype):
    clip = clip_state(dtype=dtype)
    arrays, rows = fitted(save(tmp_path, clip))
    assert all(np.array_equal(arrays[name], value) for name, value in as_arrays(clip).items())
    assert all(array.dtype == np.float32 for array in arrays.values())
    assert {(row.status, row.source_dtype, row.dtype) for row in rows.values()} == {
        ("cast", str(dtype).removeprefix("torch."), "float32")
    }


@pytest.mark.parametrize(
    ("before", "given", "after"),
    [
        ((32, 32), None, (48, 16)),
        ((32, 32), None, (64, 16)),  # as many patches in another grid: the authors' code copies, the rule resizes
        ((64, 16), (64, 16), (32, 32)),
        ((64, 32), (64, 32), (48, 40)),
        ((384, 128), None, (256, 128)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_positions_are_resized_as_pytorch_does(tmp_path, before, given, after, dtype):
    clip = clip_state(replace(SQUARE, image_size=before), dtype=dtype)
    arrays, rows = fitted(save(tmp_path, clip), replace(SQUARE, image_size=after), image_size=given)
    grids = [(size[0] // 8, size[1] // 8) for size in (before, after)]
    expected = interpolated(clip[VISUAL_POSITIONS], *grids)
    assert arrays[VISUAL_POSITIONS].shape == expected.shape
    assert np.abs(arrays[VISUAL_POSITIONS] - expected).max() < 1e-6
    assert rows[VISUAL_POSITIONS].status == ("resized" if dtype == torch.float32 else "resized, cast")


def test_positions_are_resized_to_another_stride(tmp_path):
    clip = clip_state()
    arrays, _ = fitted(save(tmp_path, clip), replace(SQUARE, stride=4))
    assert np.abs(arrays[VISUAL_POSITIONS] - interpolated(clip[VISUAL_POSITIONS], (4, 4), (7, 7))).max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_table_of_captions_is_stretched_above_77_rows(tmp_path, dtype):
    clip = clip_state(replace(SQUARE, context_length=77), dtype=dtype)
    arrays, rows = fitted(save(tmp_path, clip), replace(SQUARE, context_length=248))
    before = clip["positional_embedding"].float().numpy()
    assert arrays["positional_embedding"].tobytes() == stretch_positions(before, 248).tobytes()
    assert rows["positional_embedding"].status == ("resized" if dtype == torch.float32 else "resized, cast")
    assert sum("resized" in row.status for row in rows.values()) == 1


@pytest.mark.parametrize(
    ("rows", "length", "fix"),
    [
        (77, 40, "set model.context_length=77"),
        (40, 77, "set model.context_length=40"),
        (12, 248, "set model.context_length=12"),
        (120, 100, "set model.context_length=120 data.long_captions=stretch"),
        (120, 77, "set model.context_length=120 data.long_captions=stretch"),
    ],
)
def test_another_length_of_captions_is_refused(tmp_path, rows, length, fix):
    with pytest.raises(CheckpointError) as caught:
        fitted(save(tmp_path, clip_state(replace(SQUARE, context_length=rows))), replace(SQUARE, context_length=length))
    assert str(caught.value).endswith(f"reads captions of {rows} tokens, and the model of {length}; {fix}")


def test_missing_tensors_are_listed(tmp_path):
    clip = clip_state()
    for name in ("text_projection", "visual.ln_post.weight"):
        del clip[name]
    with pytest.raises(CheckpointError) as caught:
        fitted(save(tmp_path, clip))
    message = str(caught.value)
    assert "2 missing (base_model.text_projection; base_model.visual.ln_post.weight)" in message
    assert "--allow-missing" in message and "\n" not in message


@pytest.mark.parametrize("pattern", ["text_proj*", "base_model.text_projection"])
def test_a_permitted_missing_tensor_gets_no_entry(tmp_path, pattern):
    clip = clip_state()
    del clip["text_projection"]
    arrays, rows = fitted(save(tmp_path, clip), allow_missing=[pattern])
    assert "text_projection" not in arrays and len(arrays) == len(clip)
    assert rows["text_projection"].status == "missing"


def test_a_whole_text_tower_may_be_missing(tmp_path):
    clip = {name: value for name, value in clip_state().items() if name.startswith("visual.")}
    patterns = ["transformer.*", "ln_final.*", "token_*", "positional_embedding", "text_projection", "logit_scale"]
    arrays, _ = fitted(save(tmp_path, clip), allow_missing=patterns)
    assert arrays.keys() == clip.keys()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda c: c.update({"text_projection": torch.ones(3, 4)}),
            "1 of another shape (base_model.text_proj",
        ),
        (
            lambda c: c.update({"ln_final.bias": torch.ones(48, dtype=torch.int8)}),
            "ln_final.bias is int8",
        ),
        (lambda c: c.update({"visual.transformer.resblocks.0.ls_1.gamma": torch.ones(64)}), "1 unknown (visual."),
        (lambda c: c.update({"transformer.resblocks.2.ln_1.weight": torch.ones(48)}), "1 unknown (transformer."),
    ],
)
def test_what_does_not_fit_is_an_error(tmp_path, change, words):
    clip = clip_state()
    change(clip)
    with pytest.raises(CheckpointError) as caught:
        fitted(save(tmp_path, clip))
    assert words in str(caught.value)


def test_a_table_of_an_unknown_grid_is_refused(tmp_path):
    path = save(tmp_path, clip_state(replace(SQUARE, image_size=(32, 16))))
    with pytest.raises(CheckpointError, match=r"8 patches has no usual picture size.*--source-image-size H W"):
        fitted(path)
    assert fitted(path, image_size=(32, 16))[0][VISUAL_POSITIONS].shape == (17, 64)


def test_another_architecture_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"is a tiny, the model is a small; set model\.architecture=tiny"):
        fitted(save(tmp_path, clip_state()), replace(SQUARE, architecture="small"))


def test_irra_gets_the_configs_temperature_and_its_heads_are_reported(tmp_path):
    save_irra(tmp_path / "x.pth", clip_state())
    arrays, rows = fitted(tmp_path / "x.pth", replace(SQUARE, temperature=0.02))
    assert arrays["logit_scale"] == np.float32(math.log(50)) and rows["logit_scale"].status == "initial"
    assert {row.name for row in rows.values() if row.status == "unexpected"} == {
        "model.classifier.weight",
        "model.cross_attn.in_proj_weight",
    }


def test_cast_keeps_every_bit_of_bfloat16():
    bits = np.arange(2**16, dtype=np.uint16)
    values = torch.from_numpy(bits.view(np.int16).copy()).view(torch.bfloat16)
    ours = cast(bits.view([("bfloat16", "<u2")]), "float32")
    assert ours.tobytes() == values.float().numpy().tobytes()
    finite = ~np.isnan(ours)
    assert np.array_equal(cast(ours, "bfloat16")["bfloat16"][finite], bits[finite])


def test_cast_rounds_to_bfloat16_as_pytorch_does():
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(1)) * 3
    values[:4] = torch.tensor([3.4e38, 1e-45, -0.0, float("inf")])
    expected = values.bfloat16().view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(cast(values.numpy(), "bfloat16")["bfloat16"], expected)
