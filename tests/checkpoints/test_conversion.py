"""Conversions between files: bit for bit in both directions, complete or absent, described."""

import hashlib
import json
from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
import torch
from checkpoints.source_files import (
    SOURCES,
    SQUARE,
    as_arrays,
    clip_state,
    huggingface_state,
    save_huggingface,
    save_huggingface_folder,
    save_openai,
    save_unireid,
    unireid_state,
)
from parity import TINY, parameters, reference_for
from safetensors import safe_open
from safetensors.torch import load_file

from ms_unireid.checkpoints import conversion as module
from ms_unireid.checkpoints.checkpoint import load_checkpoint, load_pretrained, read_checkpoint, save_checkpoint
from ms_unireid.checkpoints.conversion import Options, convert
from ms_unireid.checkpoints.conversion_report import counts, to_json, to_text
from ms_unireid.checkpoints.recognition import open_source
from ms_unireid.config import Config, to_dict
from ms_unireid.config_schema import ARCHITECTURES, Architecture, TowerSize
from ms_unireid.errors import CheckpointError, ConfigError, UserError
from ms_unireid.models.unireid import build_model
from reference.model import DualEncoder

TO_PYTORCH = Options(to="pytorch")
POSITIONS = "visual.positional_embedding"
OURS = f"base_model.{POSITIONS}"


def same_state(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(
        ours[n].dtype == theirs[n].dtype and ours[n].shape == theirs[n].shape and torch.equal(ours[n], theirs[n])
        for n in theirs
    )


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("what", SOURCES)
def test_pytorch_to_ours_to_pytorch_bit_for_bit(tmp_path, what, dtype, suffix):
    kind, name, save = SOURCES[what]
    clip = clip_state(dtype=dtype)
    save(tmp_path / name, clip)
    convert(tmp_path / name, tmp_path / f"ours{suffix}", Options())
    if kind == "huggingface_clip":
        expected, layout = huggingface_state(clip), "huggingface"
        expected = {n: value for n, value in expected.items() if not n.endswith("position_ids")}
    else:
        layout = "unireid" if kind in ("unireid", "irra") else "clip"
        expected = unireid_state(clip) if layout == "unireid" else clip
    convert(tmp_path / f"ours{suffix}", tmp_path / "back.pth", Options(to="pytorch", layout=layout))
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    back = back["model"] if layout == "unireid" else back
    if kind == "irra":  # its files have none; ours starts it
        del expected["logit_scale"], back["logit_scale"]
    assert same_state(back, expected)


@pytest.mark.parametrize("layout", ["unireid", "clip", "huggingface"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_ours_to_pytorch_to_ours_bit_for_bit(tmp_path, layout, suffix):
    model = build_model(TINY, 3)
    meta = {"config": to_dict(Config(model=TINY)), "epoch": 5}
    save_checkpoint(tmp_path / "best.ckpt", model.get_parameters(), meta)
    there = Options(to="pytorch", layout=layout)
    convert(tmp_path / "best.ckpt", tmp_path / f"there{suffix}", there)
    convert(tmp_path / f"there{suffix}", tmp_path / "back.ckpt", Options(source_image_size=TINY.image_size))
    back = build_model(TINY, 4)
    found = load_checkpoint(back, tmp_path / "back.ckpt")
    before, after = parameters(model), parameters(back)
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    assert found["config"]["model"] == meta["config"]["model"]
    if suffix == ".safetensors" or layout == "unireid":
        assert found["epoch"] == 5 and found["config"] == meta["config"]


def test_the_authors_code_loads_it_strictly(tmp_path):
    model = build_model(TINY, 3)
    save_checkpoint(tmp_path / "x.ckpt", model.get_parameters(), {"config": to_dict(Config(model=TINY)), "epoch": 5})
    convert(tmp_path / "x.ckpt", tmp_path / "x.pth", TO_PYTORCH)
    found = torch.load(tmp_path / "x.pth", weights_only=True)
    assert found["epoch"] == 5
    reference = reference_for(TINY, 1)
    reference.load_state_dict(found["model"], strict=True)
    assert all(np.array_equal(parameters(reference)[n], value) for n, value in parameters(model).items())


def test_plain_clip_code_loads_it_strictly(tmp_path):
    class PlainCLIP(DualEncoder):
        def __init__(self, **sizes):
            super().__init__(**sizes)
            self.logit_scale = torch.nn.Parameter(torch.zeros(()))

    save_unireid(tmp_path / "x.pth", clip_state())
    convert(tmp_path / "x.pth", tmp_path / "clip.pth", Options(to="pytorch", layout="clip"))
    encoder = reference_for(SQUARE, 2).base_model
    encoder.__class__ = PlainCLIP
    encoder.logit_scale = torch.nn.Parameter(torch.zeros(()))
    encoder.load_state_dict(torch.load(tmp_path / "clip.pth", weights_only=True), strict=True)
    assert torch.equal(encoder.visual.proj, clip_state()["visual.proj"])


def test_safetensors_are_what_their_readers_expect(tmp_path):
    clip = clip_state(dtype=torch.float16)
    save_openai(tmp_path / "x.pth", clip)
    convert(tmp_path / "x.pth", tmp_path / "x.safetensors", Options(to="pytorch", layout="huggingface"))
    found = load_file(str(tmp_path / "x.safetensors"))
    expected = {n: v for n, v in huggingface_state(clip).items() if not n.endswith("position_ids")}
    assert same_state(found, expected)
    with safe_open(str(tmp_path / "x.safetensors"), "pt") as file:
        assert file.metadata()["format"] == "pt"


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_mindspore_itself_reads_ours(tmp_path, suffix):
    save_huggingface(tmp_path / "x.bin", clip_state(dtype=torch.float16))
    convert(tmp_path / "x.bin", tmp_path / f"x{suffix}", Options())
    found = ms.load_checkpoint(str(tmp_path / f"x{suffix}"), format=suffix[1:])
    expected = as_arrays(unireid_state(clip_state(dtype=torch.float16)))
    assert expected.keys() == {name for name in found if name != "ms_unireid"}
    assert all(np.array_equal(found[name].asnumpy(), value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("dtype", "expected"), [("float16", torch.float16), ("bfloat16", torch.bfloat16), ("float32", torch.float32)]
)
def test_the_type_of_a_pytorch_file(tmp_path, dtype, expected):
    save_openai(tmp_path / "x.pth", clip_state(dtype=torch.float16))
    convert(tmp_path / "x.pth", tmp_path / "y.pth", Options(to="pytorch", layout="clip", dtype=dtype))
    found = torch.load(tmp_path / "y.pth", weights_only=True)
    assert same_state(found, {n: value.to(expected) for n, value in clip_state(dtype=torch.float16).items()})


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_our_file_in_half_precision_with_a_short_vocabulary(tmp_path, suffix):
    config = replace(SQUARE, architecture=replace(OWN, vocabulary_size=600))
    model = build_model(config)
    meta = {"config": to_dict(Config(model=config)), "about": {"environment": {"seed": 1}}}
    save_checkpoint(tmp_path / "x.ckpt", model.get_parameters(), meta)
    options = Options(dtype="float16", about={"test": {"R1": 50.0}})
    convert(tmp_path / "x.ckpt", tmp_path / f"y{suffix}", options)
    assert {array.dtype for array in open_source(tmp_path / f"y{suffix}").file.tensors.values()} == {np.dtype("<f2")}
    found = read_checkpoint(tmp_path / f"y{suffix}")
    expected = {name: value.astype("float16").astype("float32") for name, value in parameters(model).items()}
    assert all(np.array_equal(found.tensors[name], expected[name]) for name in expected)
    assert found.meta["about"] == {"environment": {"seed": 1}, "test": {"R1": 50.0}}
    assert found.config().model == config


def test_a_resized_table_stays_float32_on_the_way_back(tmp_path):
    save_openai(tmp_path / "x.pth", clip_state(dtype=torch.float16))
    convert(tmp_path / "x.pth", tmp_path / "same.ckpt", Options())
    convert(tmp_path / "same.ckpt", tmp_path / "wide.ckpt", Options(image_size=(48, 16)))
    convert(tmp_path / "wide.ckpt", tmp_path / "y.pth", Options(to="pytorch", layout="clip"))
    found = torch.load(tmp_path / "y.pth", weights_only=True)
    assert {name for name, value in found.items() if value.dtype == torch.float32} == {POSITIONS}
    assert torch.equal(found[POSITIONS], torch.from_numpy(read_checkpoint(tmp_path / "wide.ckpt").tensors[OURS].copy()))


def test_the_description_of_the_output(tmp_path):
    save_unireid(tmp_path / "x.pth", clip_state(dtype=torch.float16))
    conversion = convert(tmp_path / "x.pth", tmp_path / "x.ckpt", Options(image_size=(48, 16), stride=4))
    digest = hashlib.sha256((tmp_path / "x.pth").read_bytes()).hexdigest()
    meta = open_source(tmp_path / "x.ckpt").meta
    assert meta["epoch"] == 7 and meta["source"]["kind"] == "unireid" and meta["source"]["sha256"] == [digest]
    assert meta["config"] == to_dict(conversion.config) and conversion.config.model.image_size == (48, 16)
    assert conversion.config.model.stride == 4
    assert read_checkpoint(tmp_path / "x.ckpt").tensors[OURS].shape == (11 * 3 + 1, 64)


def test_the_report(tmp_path):
    save_unireid(tmp_path / "x.pth", clip_state(dtype=torch.float16))
    conversion = convert(tmp_path / "x.pth", tmp_path / "x.ckpt", Options(image_size=(48, 16)))
    clip = clip_state()
    assert counts(conversion.rows) == {"cast": len(clip) - 1, "resized, cast": 1, "optimizer state": 3}
    text = to_text(conversion)
    assert f"resized, cast {POSITIONS} model.module.{OURS} (17, 64) -> (13, 64)" in " ".join(text.split())
    assert "(17, 64) -> (13, 64)  float16 -> float32" in text
    for path in (tmp_path / "x.pth", tmp_path / "x.ckpt"):
        assert f"sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}  {path}" in text
    report = json.loads(json.dumps(to_json(conversion)))
    assert report["kind"] == "unireid" and report["known_as"] is None and len(report["tensors"]) == len(clip) + 3


def test_a_known_file_is_named(tmp_path, monkeypatch):
    save_openai(tmp_path / "x.pth", clip_state())
    digest = hashlib.sha256((tmp_path / "x.pth").read_bytes()).hexdigest()
    monkeypatch.setitem(module.KNOWN_FILES, digest, "the test's CLIP")
    conversion = convert(tmp_path / "x.pth", tmp_path / "x.ckpt", Options())
    assert conversion.known_as == "the test's CLIP" and "known as the test's CLIP" in to_text(conversion)
    assert open_source(tmp_path / "x.ckpt").meta["source"]["known_as"] == "the test's CLIP"


@pytest.mark.parametrize(
    ("output", "options", "words"),
    [
        ("out.pth", Options(), r"out\.pth: a mindspore checkpoint ends in \.ckpt or \.safetensors"),
        ("out.ckpt", TO_PYTORCH, r"out\.ckpt: a pytorch checkpoint ends in \.pth"),
        ("x.pth", TO_PYTORCH, r"x\.pth: is also the input"),
        ("out.ckpt", Options(kind="huggingface_clip"), "it has no tensor vision_model"),
    ],
)
def test_refusals_write_nothing(tmp_path, output, options, words):
    save_openai(tmp_path / "x.pth", clip_state())
    before = (tmp_path / "x.pth").read_bytes()
    with pytest.raises(CheckpointError, match=words):
        convert(tmp_path / "x.pth", tmp_path / output, options)
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"] and (tmp_path / "x.pth").read_bytes() == before


def test_our_kind_may_be_given_for_a_file_without_a_description(tmp_path):
    save_openai(tmp_path / "x.pth", clip_state())
    assert convert(tmp_path / "x.pth", tmp_path / "x.ckpt", Options(kind="ms_unireid")).config.train == Config().train


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_no_file_of_the_input_is_overwritten(tmp_path, link):
    folder, output = tmp_path / "folder", tmp_path / "out.safetensors"
    save_huggingface_folder(folder, clip_state())
    shard = folder / "model-00001-of-00002.safetensors"
    getattr(output, link)(shard)
    before = {file: file.read_bytes() for file in folder.iterdir()}
    for target in (output, shard, folder / "model.safetensors", folder / "pytorch_model.bin"):
        with pytest.raises(CheckpointError, match=r"is also the input|would be read as a part"):
            convert(folder, target, TO_PYTORCH)
    assert {file: file.read_bytes() for file in folder.iterdir()} == before
    assert convert(folder, folder / "clip.ckpt", Options()).rows


@pytest.mark.parametrize("shape", [(1,), ()])
@pytest.mark.parametrize("layout", ["unireid", "clip", "huggingface"])
def test_a_logit_scale_of_one_element_comes_back_as_it_was(tmp_path, layout, shape):
    clip = clip_state()
    clip["logit_scale"] = clip["logit_scale"].reshape(shape)
    save_openai(tmp_path / "x.pth", clip)
    first = convert(tmp_path / "x.pth", tmp_path / "x.ckpt", Options())
    assert ("reshaped" in counts(first.rows)) == (shape == (1,))
    assert read_checkpoint(tmp_path / "x.ckpt").tensors["logit_scale"].shape == ()
    for source in ("x.pth", "x.ckpt"):
        convert(tmp_path / source, tmp_path / "y.safetensors", Options(to="pytorch", layout=layout))
        assert load_file(tmp_path / "y.safetensors")["logit_scale"].shape == shape
    assert open_source(tmp_path / "y.safetensors").entries["logit_scale"].shape == ()


def test_values_that_are_not_finite_are_counted(tmp_path):
    clip = clip_state(dtype=torch.float16)
    clip["visual.proj"][0, :3] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    clip["ln_final.bias"][0] = float("nan")
    save_huggingface(tmp_path / "x.bin", clip)
    counted = r"'text_model.final_layer_norm.bias': 1 NaN, 0 infinite; 'visual_projection.weight': 1 NaN, 2 infinite"
    with pytest.raises(CheckpointError, match=rf"not finite in 2 tensors \({counted}\)"):
        convert(tmp_path / "x.bin", tmp_path / "x.ckpt", Options())


@pytest.mark.parametrize(
    ("value", "saved", "options"),
    [
        (1e300, torch.float64, Options()),
        (7e4, torch.float32, Options(to="pytorch", dtype="float16")),
        (3.4e38, torch.float32, Options(to="pytorch", dtype="bfloat16")),
    ],
)
def test_values_too_large_for_the_type_are_refused(tmp_path, value, saved, options):
    clip = clip_state(dtype=saved)
    clip["visual.proj"][0, 0] = value
    save_openai(tmp_path / "x.pth", clip)
    with pytest.raises(CheckpointError, match=r"x\.pth: has a value in 'base_model.visual.proj' that is too large for"):
        convert(tmp_path / "x.pth", tmp_path / ("y.ckpt" if options.to == "mindspore" else "y.pth"), options)
    assert [file.name for file in tmp_path.iterdir()] == ["x.pth"]


def test_names_in_the_report_are_escaped_and_cut(tmp_path):
    ugly = {"a\nmatched  b": torch.ones(1), "c\x1b[2K\u202e": torch.ones(1), "d" * 390: torch.ones(1)}
    save_openai(tmp_path / "x.pth", clip_state() | ugly)
    conversion = convert(tmp_path / "x.pth", tmp_path / "x.ckpt", Options())
    assert all(line.isprintable() and len(line) < 400 for line in to_text(conversion).splitlines())
    assert len(to_text(conversion).splitlines()) == 1 + len(conversion.rows) + 1 + 5
    assert [row["name"][:6] for row in to_json(conversion)["tensors"][-3:]] == [r"a\nmat", r"c\x1b[", "dddddd"]


def test_an_epoch_of_another_program_is_taken_if_it_is_a_number_of_epochs(tmp_path):
    for epoch, known in ((7, 7), ("x" * 1000, None), (-1, None), (7.5, None)):
        torch.save({"model": unireid_state(clip_state()), "epoch": epoch}, tmp_path / "x.pth")
        convert(tmp_path / "x.pth", tmp_path / "x.ckpt", Options())
        assert open_source(tmp_path / "x.ckpt").meta.get("epoch") == known


def test_a_size_no_model_can_have_is_refused(tmp_path):
    save_openai(tmp_path / "x.pth", clip_state())
    with pytest.raises(ConfigError, match="must be at least the patch size 8"):
        convert(tmp_path / "x.pth", tmp_path / "x.ckpt", Options(image_size=(4, 4)))
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]


@pytest.mark.parametrize("to", ["mindspore", "pytorch"])
def test_a_full_disk_leaves_the_old_output(tmp_path, to):
    resource = pytest.importorskip("resource")
    save_openai(tmp_path / "x.pth", clip_state())
    output = tmp_path / ("out.ckpt" if to == "mindspore" else "out.pth")
    output.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"out\.\w+: cannot be written \(File too large\)"):
            convert(tmp_path / "x.pth", output, Options(to=to))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert output.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 2


def test_a_permitted_missing_tensor_keeps_the_models_value(tmp_path):
    clip = {name: value for name, value in clip_state().items() if not name.startswith("ln_final")}
    save_openai(tmp_path / "x.pth", clip)
    convert(tmp_path / "x.pth", tmp_path / "x.ckpt", Options(allow_missing=("ln_final.*",)))
    model = build_model(SQUARE, 2)
    before = parameters(model)
    load_pretrained(model, tmp_path / "x.ckpt", SQUARE)
    after = parameters(model)
    kept = {name for name in before if np.array_equal(before[name], after[name])}
    assert kept == {"base_model.ln_final.weight", "base_model.ln_final.bias", "logit_scale"}
    with pytest.raises(CheckpointError, match=r"2 missing \(base_model\.ln_final"):
        load_checkpoint(build_model(SQUARE, 2), tmp_path / "x.ckpt")


@pytest.mark.parametrize("what", SOURCES)
def test_every_source_starts_a_training_and_fills_a_model(tmp_path, what):
    kind, name, save = SOURCES[what]
    save(tmp_path / name, clip_state(dtype=torch.float16))
    expected = as_arrays(unireid_state(clip_state(dtype=torch.float16)))
    model = build_model(SQUARE, 2)
    load_checkpoint(model, tmp_path / name)
    found = parameters(model)
    assert all(np.array_equal(found[n], expected[n]) for n in expected if (kind, n) != ("irra", "logit_scale"))

    started = build_model(SQUARE, 3)
    own_scale = parameters(started)["logit_scale"]
    load_pretrained(started, tmp_path / name, SQUARE)
    found = parameters(started)
    assert found["logit_scale"] == own_scale
    assert all(np.array_equal(found[n], expected[n]) for n in expected if n != "logit_scale")

    load_pretrained(started, tmp_path / name, replace(SQUARE, pretrained_logit_scale=True))
    taken = parameters(started)["logit_scale"]
    assert taken == (own_scale if kind == "irra" else expected["logit_scale"])


def test_a_start_with_the_wrong_activation_is_refused(tmp_path):
    save_huggingface_folder(tmp_path / "x", clip_state(), "gelu")
    with pytest.raises(CheckpointError, match=r"holds a model with gelu; set model\.activation=gelu"):
        load_pretrained(build_model(SQUARE, 2), tmp_path / "x", SQUARE)
    convert(tmp_path / "x", tmp_path / "x.ckpt", Options())
    config = replace(SQUARE, activation="gelu")
    load_pretrained(build_model(config, 2), tmp_path / "x.ckpt", config)
    assert open_source(tmp_path / "x.ckpt").model.activation == "gelu"


OWN = Architecture(TowerSize(128, 3, 4), TowerSize(64, 2, 2), patch_size=8, embed_dim=48)
DESCRIBED = replace(OWN, vision=TowerSize(128, 3, 2), text=TowerSize(64, 2, 1))


def test_a_described_architecture_there_and_back(tmp_path):
    clip = clip_state(replace(SQUARE, architecture=OWN), dtype=torch.float16)
    save_openai(tmp_path / "x.pth", clip)
    conversion = convert(tmp_path / "x.pth", tmp_path / "x.ckpt", Options())
    assert conversion.config.model.architecture == DESCRIBED and str(DESCRIBED) in to_text(conversion)
    assert json.loads(json.dumps(to_json(conversion)))["model"]["architecture"]["vision"]["heads"] == 2
    convert(tmp_path / "x.ckpt", tmp_path / "back.pth", Options(to="pytorch", layout="clip"))
    assert same_state(torch.load(tmp_path / "back.pth", weights_only=True), clip)
    convert(tmp_path / "x.pth", tmp_path / "own.ckpt", Options(architecture=OWN))
    assert open_source(tmp_path / "own.ckpt").model.architecture == OWN


def test_an_option_names_the_architecture_of_two_that_fit(tmp_path, monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "first", OWN)
    monkeypatch.setitem(ARCHITECTURES, "second", DESCRIBED)
    save_openai(tmp_path / "x.pth", clip_state(replace(SQUARE, architecture=OWN)))
    with pytest.raises(CheckpointError, match="fits the architectures first and second"):
        convert(tmp_path / "x.pth", tmp_path / "x.ckpt", Options())
    for name in ("first", "second"):
        convert(tmp_path / "x.pth", tmp_path / "x.ckpt", Options(architecture=name))
        assert open_source(tmp_path / "x.ckpt").model.architecture == name
        config = replace(SQUARE, architecture=name)
        load_pretrained(build_model(config, 2), tmp_path / "x.pth", config)


def test_another_architecture_than_the_files_is_refused(tmp_path):
    save_openai(tmp_path / "x.pth", clip_state())
    with pytest.raises(CheckpointError, match="is a tiny, the model is a small"):
        convert(tmp_path / "x.pth", tmp_path / "x.ckpt", Options(architecture="small"))
    with pytest.raises(ConfigError, match=r"x\.pth: unknown model\.architecture 'tinny'; did you mean 'tiny'"):
        convert(tmp_path / "x.pth", tmp_path / "x.ckpt", Options(architecture="tinny"))
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]
