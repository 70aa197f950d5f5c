"""Checkpoints: bit-for-bit round trips, strictness, damaged files, pretrained starts, atomic writes."""

import json
from dataclasses import asdict, replace

import mindspore as ms
import numpy as np
import pytest
from checkpoints.source_files import SQUARE, clip_state, save_openai
from mindspore import Parameter, Tensor

from ms_unireid.checkpoints import checkpoint as module
from ms_unireid.checkpoints.checkpoint import (
    Checkpoint,
    fill,
    load_checkpoint,
    load_pretrained,
    open_model,
    read_checkpoint,
    save_checkpoint,
)
from ms_unireid.checkpoints.formats.mindspore_file import write_mindspore
from ms_unireid.checkpoints.formats.tensor_file import META, Entry
from ms_unireid.config import CONFIGS, Config, ModelConfig, to_dict
from ms_unireid.errors import CheckpointError, UserError
from ms_unireid.models.positions import resize_positions
from ms_unireid.models.unireid import build_model

TINY = ModelConfig(architecture="tiny", image_size=(32, 16), context_length=12)
SMALL = replace(TINY, architecture="small")
PROJECTION = "base_model.text_projection"
VISUAL_POSITIONS = "base_model.visual.positional_embedding"


def meta_of(config: ModelConfig, **values) -> dict:
    return {"config": to_dict(Config(model=config)), **values}


def values(model) -> dict[str, np.ndarray]:
    return {p.name: p.asnumpy().copy() for p in model.get_parameters()}


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return first.keys() == second.keys() and all(first[n].tobytes() == second[n].tobytes() for n in first)


def moments(name: str) -> list[Parameter]:
    return [Parameter(Tensor(np.ones(3, np.float32)), name=f"exp_avg.{name}"), Parameter(1.0, name="beta1_power")]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a checkpoint file of a tiny model, and that model's values."""
    model = build_model(TINY, 1)
    path = tmp_path_factory.mktemp("saved") / "tiny.ckpt"
    save_checkpoint(path, model.get_parameters(), meta_of(TINY, epoch=3, R1=1 / 3))
    return path, values(model)


@pytest.fixture
def other():
    """Return a model with the same sizes and other weights."""
    return build_model(TINY, 2)


def test_round_trip_bit_for_bit(saved, other):
    path, before = saved
    assert not same(values(other), before)
    meta = load_checkpoint(other, path)
    assert same(values(other), before)
    assert meta == meta_of(TINY, epoch=3, R1=1 / 3)
    assert [p.name for p in path.parent.iterdir()] == ["tiny.ckpt"]


def test_special_values_survive(tmp_path, other):
    params = {p.name: p for p in other.get_parameters()}
    array = params[PROJECTION].asnumpy().copy()
    array[0, :4] = [-0.0, 1e-45, 3.4e38, 1 / 3]
    params[PROJECTION].set_data(Tensor(array))
    save_checkpoint(tmp_path / "x.ckpt", other.get_parameters(), meta_of(TINY))
    assert read_checkpoint(tmp_path / "x.ckpt").tensors[PROJECTION].tobytes() == array.tobytes()


@pytest.mark.parametrize("name", [PROJECTION, f"exp_avg.{PROJECTION}"])
def test_values_that_are_not_finite_are_counted_and_refused(tmp_path, name):
    params = {p.name: p for p in (*build_model(TINY, 1).get_parameters(), *moments(PROJECTION))}
    array = params[name].asnumpy().copy()
    array.flat[:3] = [np.nan, np.inf, -np.inf]
    params[name].set_data(Tensor(array))
    save_checkpoint(tmp_path / "x.ckpt", params.values(), meta_of(TINY))
    with pytest.raises(CheckpointError, match=rf"not finite in 1 tensors \('{name}': 1 NaN, 2 infinite\)"):
        read_checkpoint(tmp_path / "x.ckpt")


@pytest.mark.parametrize(
    ("text", "words"), [({"layers": 10**9}, "must be at most 1000"), ({"width": 3 * 2**30}, "missing|of another shape")]
)
def test_a_description_of_a_model_too_large_to_build(tmp_path, saved, text, words):
    kept = {name: array for name, array in saved[1].items() if ".visual." in name}
    config = meta_of(TINY)["config"]
    config["model"]["architecture"] = asdict(TINY.sizes)
    config["model"]["architecture"]["text"] |= text
    entries = [Entry.of(name, array) for name, array in kept.items()]
    write_mindspore(tmp_path / "x.ckpt", entries, {META: json.dumps({"config": config})})
    with pytest.raises(UserError, match=words):
        open_model(tmp_path / "x.ckpt")


def test_a_training_state_fits_the_bare_model(tmp_path, saved, other):
    source = build_model(TINY, 1)
    save_checkpoint(tmp_path / "last.ckpt", [*source.get_parameters(), *moments(PROJECTION)], meta_of(TINY))
    load_checkpoint(other, tmp_path / "last.ckpt")
    assert same(values(other), saved[1])


def spoil(saved, change) -> Checkpoint:
    read = read_checkpoint(saved[0])
    change(read.tensors)
    return read


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(PROJECTION), f"1 missing ({PROJECTION})"),
        (lambda t: t.update(extra=np.zeros(2)), "1 unexpected (extra)"),
        (lambda t: t.update({PROJECTION: np.zeros((3, 4))}), f"1 of another shape ({PROJECTION} is (3, 4)"),
        (lambda t: t.pop("logit_scale"), "1 missing (logit_scale)"),
        (lambda t: [t.pop(n) for n in list(t)[:9]], "and 5 more"),
    ],
)
def test_strict_and_nothing_half_loaded(saved, other, change, words):
    before = values(other)
    with pytest.raises(CheckpointError) as caught:
        fill(other.get_parameters(), spoil(saved, change))
    assert words in str(caught.value) and str(saved[0]) in str(caught.value)
    assert same(values(other), before)


@pytest.mark.parametrize("config", [SMALL, replace(TINY, image_size=(48, 16)), replace(TINY, context_length=24)])
def test_a_checkpoint_of_another_model(saved, config):
    model = build_model(config, 1)
    before = values(model)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(model, saved[0])
    message = str(caught.value)
    assert f"{saved[0]}: does not fit the model" in message
    assert "The checkpoint holds tiny at image size [32, 16]" in message and "use the config" in message
    assert "\n" not in message and len(message) < 1500
    assert same(values(model), before)


@pytest.mark.parametrize("share", [0, 1, 100, 0.25, 0.5, 0.9, 0.999, -1])
def test_truncated_files(saved, other, tmp_path, share):
    content = saved[0].read_bytes()
    path = tmp_path / "cut.ckpt"
    path.write_bytes(content[: int(share * len(content)) if isinstance(share, float) else share])
    before = values(other)
    with pytest.raises(CheckpointError, match=r"cut\.ckpt: .*; "):
        load_checkpoint(other, path)
    assert same(values(other), before)


def test_a_file_cut_between_two_tensors_is_not_called_foreign(saved, tmp_path):
    content = saved[0].read_bytes()
    # The description comes last, after its tag and length.
    cuts = [content[:end] for end in range(content.rindex(b"ms_unireid") - 12, content.rindex(b"ms_unireid"))]
    for cut in cuts:
        (tmp_path / "cut.ckpt").write_bytes(cut)
        with pytest.raises(CheckpointError, match=r"cannot be read as a MindSpore checkpoint|not a complete one"):
            read_checkpoint(tmp_path / "cut.ckpt")


@pytest.mark.parametrize(
    "content", [b"<!doctype html><html><body>404</body></html>", b"\0" * 999, b"PK\x03\x04 a zip", b"\x80\x02}q\x00."]
)
def test_files_in_disguise(tmp_path, content):
    path = tmp_path / "fake.ckpt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"fake\.ckpt: .*; "):
        read_checkpoint(path)


def test_missing_file_and_empty_folder(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.ckpt: no such file"):
        read_checkpoint(tmp_path / "none.ckpt")
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("extra", [None, {"ms_unireid": 3}, {"ms_unireid": "no json"}])
def test_a_mindspore_checkpoint_of_another_program(tmp_path, extra):
    path = str(tmp_path / "theirs.ckpt")
    ms.save_checkpoint([{"name": "w", "data": Tensor(np.ones(3, np.float32))}], path, append_dict=extra)
    with pytest.raises(CheckpointError, match=r"theirs\.ckpt"):
        read_checkpoint(path)


def test_pretrained_keeps_the_models_own_logit_scale(saved):
    model = build_model(replace(TINY, temperature=0.5), 2)
    scale = values(model)["logit_scale"]
    load_pretrained(model, saved[0], replace(TINY, temperature=0.5))
    now, source = values(model), dict(saved[1])
    assert now["logit_scale"].tobytes() == scale.tobytes() != source["logit_scale"].tobytes()
    assert same(now, {**source, "logit_scale": scale})


@pytest.mark.parametrize("changed", [{"image_size": (48, 24)}, {"stride": 4}], ids=["larger", "overlapping"])
def test_pretrained_resizes_the_position_table(saved, changed):
    config = replace(TINY, **changed)
    model = build_model(config, 2)
    load_pretrained(model, saved[0], config)
    now, source = values(model), dict(saved[1])
    grid = (6, 3) if "image_size" in changed else (7, 3)
    assert np.array_equal(now[VISUAL_POSITIONS], resize_positions(source[VISUAL_POSITIONS], grid, (4, 2)))
    skipped = {VISUAL_POSITIONS, "logit_scale"}
    assert all(now[n].tobytes() == source[n].tobytes() for n in source if n not in skipped)


def test_pretrained_of_another_architecture(saved):
    model = build_model(SMALL, 2)
    before = values(model)
    with pytest.raises(CheckpointError, match="is a tiny, the model is a small"):
        load_pretrained(model, saved[0], SMALL)
    assert same(values(model), before)


def test_pretrained_from_a_training_state(tmp_path, saved, other):
    source = build_model(TINY, 1)
    save_checkpoint(tmp_path / "last.ckpt", [*source.get_parameters(), *moments("x")], meta_of(TINY))
    load_pretrained(other, tmp_path / "last.ckpt", TINY)
    assert values(other)[PROJECTION].tobytes() == saved[1][PROJECTION].tobytes()


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch, saved, other):
    path = tmp_path / "best.ckpt"
    path.write_bytes(saved[0].read_bytes())

    def half(file, *_):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_mindspore", half)
    with pytest.raises(UserError, match=r"best\.ckpt: cannot be written \(No space left on device\); make room"):
        save_checkpoint(path, other.get_parameters(), meta_of(TINY))
    assert path.read_bytes() == saved[0].read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["best.ckpt"]


def test_running_out_of_room(tmp_path, saved, other):
    resource = pytest.importorskip("resource")
    path = tmp_path / "best.ckpt"
    path.write_bytes(saved[0].read_bytes())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"best\.ckpt: cannot be written"):
            save_checkpoint(path, other.get_parameters(), meta_of(TINY))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == saved[0].read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["best.ckpt"]


def test_the_positions_of_a_clip_are_resized_to_the_pictures_of_a_config(tmp_path):
    save_openai(tmp_path / "clip.pth", clip_state())
    sizes = f"architecture: tiny, image_size: [48, 16], context_length: {SQUARE.context_length}"
    (tmp_path / "zero_shot.yaml").write_text(f"model: {{{sizes}}}\n")
    opened = open_model(tmp_path / "clip.pth", ["runtime.device=CPU"], [tmp_path / "zero_shot.yaml"])
    started = build_model(opened.config.model, 5)
    load_pretrained(started, tmp_path / "clip.pth", replace(opened.config.model, pretrained_logit_scale=True))
    assert same(values(opened.model), values(started))
    assert values(opened.model)[VISUAL_POSITIONS].shape == (6 * 2 + 1, 64)
    assert values(open_model(tmp_path / "clip.pth").model)[VISUAL_POSITIONS].shape == (4 * 4 + 1, 64)
    with pytest.raises(CheckpointError, match=r"is a tiny, the model is a ViT-B/16; set model.architecture=tiny"):
        open_model(tmp_path / "clip.pth", files=[CONFIGS / "clip_zero_shot.yaml"])
