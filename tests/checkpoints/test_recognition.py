"""Recognition by content: every kind of file, whatever its name, gives CLIP's tensors bit for bit."""

import json
import shutil
from dataclasses import replace

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
from ms_unireid.checkpoints.formats.tensor_file import META, Entry
from ms_unireid.checkpoints.recognition import open_source
from ms_unireid.config import Config, ModelConfig, config_from_dict, to_dict
from ms_unireid.config_schema import ARCHITECTURES, Architecture, TowerSize
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
    expected = as_arrays(unireid_state(clip))
    if kind == "irra":
        del expected["logit_scale"]
    assert same(loaded(source), expected)
    assert source.model.architecture == "tiny" and source.model.image_size == (32, 32) and source.grid == (4, 4)
    assert source.model.context_length == 12 and source.model.stride is None
    assert all(entry.dtype == np.float32 and entry.shape == expected[n].shape for n, entry in source.entries.items())


def test_unused_tensors_have_roles(tmp_path):
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
    assert source.kind == "unireid" and same(loaded(source), as_arrays(unireid_state(clip_state())))


def test_a_mindspore_file_of_ours(tmp_path):
    arrays = as_arrays(unireid_state(clip_state(TINY)))
    meta = {"config": to_dict(Config(model=TINY)), "epoch": 4}
    entries = [Entry.of(name, array) for name, array in arrays.items()]
    write_mindspore(tmp_path / "x.ckpt", entries, {META: json.dumps(meta)})
    source = open_source(tmp_path / "x.ckpt")
    assert source.kind == "ms_unireid" and source.meta == meta and source.grid == (4, 2) and source.model == TINY
    write_mindspore(tmp_path / "bare.ckpt", entries, {})
    with pytest.raises(CheckpointError, match=r"bare\.ckpt: is a MindSpore checkpoint, but not a complete one"):
        open_source(tmp_path / "bare.ckpt")
    assert open_source(tmp_path / "bare.ckpt", kind="unireid", image_size=(32, 16)).grid == (4, 2)


def test_kind_overrides(tmp_path):
    save_openai(tmp_path / "x.pth", clip_state())
    assert open_source(tmp_path / "x.pth", kind="open_clip").kind == "open_clip"
    with pytest.raises(CheckpointError, match=r"it has no tensor vision_model\.embeddings"):
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
    with pytest.raises(CheckpointError, match=r"8 patches .* pictures of 64x64, .*correct --source-image-size"):
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
    ("state", "words"),
    [
        ({"fc.weight": torch.ones(2)}, "is not a CLIP with a vision transformer"),
        ({}, "is not a CLIP"),
        (
            {"visual.conv1.weight": torch.ones(32, 3, 3, 3), "visual.layer1.0.conv1.weight": torch.ones(2)},
            "fits none of",
        ),
        ({f"{p}visual.conv1.weight": torch.ones(64, 3, 8, 8) for p in ("model.", "ema.")}, "holds several models"),
        (
            {"visual.conv1.weight": torch.ones(64, 3, 8, 8)},
            "expected a position table visual.positional_embedding .* found none",
        ),
    ],
)
def test_a_file_without_a_dual_encoder_is_refused(tmp_path, state, words):
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=words) as caught:
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
    """Any tensor under a known name gives the project's own error or a whole model."""
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
        assert {name: entry.load().shape for name, entry in entries.items()} == {
            n: v.shape for n, v in unireid_state(clip).items()
        }


@pytest.mark.parametrize(
    "description",
    [
        "[1]",
        "3",
        "{",
        *(pytest.param(text * 100_000, id=f"deep {text}") for text in ("[", '{"a":')),
        '"text"',
        '{"epoch": 1}',
        '{"config": 3}',
        '{"config": {"model": 3}}',
    ],
)
def test_a_damaged_description_is_refused(tmp_path, description):
    entries = [Entry.of(name, array) for name, array in as_arrays(unireid_state(clip_state())).items()]
    write_mindspore(tmp_path / "x.ckpt", entries, {META: description})
    with pytest.raises(UserError, match=r"x\.ckpt: "):
        open_source(tmp_path / "x.ckpt")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epoch": "3"}, r"its description\['epoch'\] is '3'; expected a whole number"),
        ({"epoch": True}, "is True; expected a whole number"),
        ({"done": 1.5}, "is 1.5; expected a whole number"),
        ({"step": None}, "is None; expected a whole number"),
        ({"loss_scale": {"value": float("nan")}}, "NaN is not a number of JSON"),
        ({"source": 5}, "is 5; expected a dictionary"),
        ({"source": {"dtypes": {"logit_scale": "float9"}}}, "is 'float9'; expected one of"),
        ({"source": {"dtypes": {"logit_scale": []}}}, r"is \[\]; expected one of"),
        ({"source": {"missing": "*"}}, r"is '\*'; expected a list"),
        ({"source": {"shapes": {"logit_scale": 1}}}, "is 1; expected a list"),
        ({"source": {"file": ["x" * 10**6]}}, r"its source\['file'\] is \['xx.*expected text"),
        ({"config": {"model": {"architecture": {"vision": 3}}}}, "architecture"),
        ({"config": {"model": {"image_size": [10**9, 10**9]}}}, "must be at most 4096"),
        ({"config": {"model": {"architecture": "tiny", "image_size": [64, 64]}}}, "its description says"),
        ({"config": {"a\x1b[2K": {}}}, "unknown"),
    ],
)
def test_a_description_is_checked_where_it_is_read(tmp_path, change, words):
    entries = [Entry.of(name, array) for name, array in as_arrays(unireid_state(clip_state())).items()]
    meta = {"config": to_dict(Config(model=SQUARE)), "epoch": 1}
    write_mindspore(tmp_path / "x.ckpt", entries, {META: json.dumps(meta)})
    assert open_source(tmp_path / "x.ckpt").meta == meta
    write_mindspore(tmp_path / "x.ckpt", entries, {META: json.dumps(meta | change)})
    with pytest.raises(UserError, match=words) as caught:
        open_source(tmp_path / "x.ckpt")
    assert len(str(caught.value)) < len(str(tmp_path)) + 500


@pytest.mark.parametrize("content", ["[1]", '{"vision_config": 3}', '{"vision_config": {"image_size": "a"}}'])
def test_an_odd_config_json_does_not_crash(tmp_path, content):
    save_huggingface_folder(tmp_path / "x", clip_state())
    (tmp_path / "x" / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        open_source(tmp_path / "x")


OPEN_CLIP = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": [64, 16], "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 48, "heads": 3, "layers": 2},
}


def write_open_clip_config(folder, changes=None):
    """Write a config like open_clip's; `changes` are values by dotted keys."""
    model = json.loads(json.dumps(OPEN_CLIP))
    for key, value in (changes or {}).items():
        *sections, name = key.split(".")
        (model[sections[0]] if sections else model)[name] = value
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": {}}))


@pytest.mark.parametrize("folder", [True, False], ids=["folder", "file"])
@pytest.mark.parametrize(
    ("changes", "activation", "grid"),
    [
        ({}, GELU, (8, 2)),
        ({"quick_gelu": True}, "quick_gelu", (8, 2)),
        ({"quick_gelu": False, "vision_cfg.image_size": 32}, GELU, (4, 4)),
    ],
)
def test_open_clips_config_gives_activation_and_size(tmp_path, folder, changes, activation, grid):
    path = tmp_path / "open_clip_pytorch_model.bin"
    save_openai(path, clip_state())
    write_open_clip_config(tmp_path, changes)
    source = open_source(tmp_path if folder else path)
    assert (source.kind, source.activation, source.grid) == ("open_clip", activation, grid)
    assert source.model.activation == activation
    assert open_source(path, activation="quick_gelu", image_size=(32, 32)).grid == (4, 4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quick_gelu": "yes"}, "quick_gelu 'yes'; expected true or false"),
        ({"vision_cfg": {}}, "has no model_cfg with vision_cfg and text_cfg"),
        ({"text_cfg": None}, "has no model_cfg with vision_cfg and text_cfg"),
        ({"vision_cfg": []}, r"vision_cfg is \[\]; expected a table"),
        ({"vision_cfg.image_size": -32}, "image_size is -32; expected a positive number"),
        ({"vision_cfg.image_size": [32]}, r"image_size is \[32\]"),
        ({"vision_cfg.image_size": 224}, r"pictures of 224x224, as given or in a config"),
        ({"vision_cfg.patch_size": [8, 4]}, "expected squares"),
        ({"vision_cfg.patch_size": 16}, "has patch size 8, but open_clip_config.json beside it says 16"),
        ({"vision_cfg.width": 768}, "has vision width 64, but open_clip_config.json beside it says 768"),
        ({"text_cfg.layers": 12}, "has text layers 2, but open_clip_config.json beside it says 12"),
        ({"text_cfg.vocab_size": 49409}, "has vocabulary size 49408, but"),
        ({"text_cfg.heads": True}, "heads is True"),
        ({"text_cfg.no_causal_mask": True}, "no_causal_mask in text_cfg is not False"),
        ({"embed_dim": 10**40}, "embed_dim is 10+"),
    ],
)
def test_open_clips_config_that_cannot_be_true(tmp_path, changes, words):
    save_openai(tmp_path / "open_clip_pytorch_model.bin", clip_state())
    write_open_clip_config(tmp_path, changes)
    with pytest.raises(CheckpointError, match=words) as caught:
        open_source(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: ")


def test_another_tokenizers_table_is_refused(tmp_path):
    clip = clip_state()
    clip["token_embedding.weight"] = clip["token_embedding.weight"][:1000]
    sizes = replace(ARCHITECTURES["tiny"], vocabulary_size=1000)
    save_openai(tmp_path / "x.pth", clip)
    with pytest.raises(CheckpointError, match=r"x\.pth: has a token table of 1000 rows, another tokenizer's"):
        open_source(tmp_path / "x.pth", architecture=sizes).check_tokenizer()


def test_a_config_beside_other_files_is_not_theirs(tmp_path):
    write_open_clip_config(tmp_path, {"vision_cfg.width": 768})
    (tmp_path / "config.json").write_text('{"model_type": "bert", "vision_config": 3}')
    save_unireid(tmp_path / "x.pth", clip_state())
    SOURCES["openai archive"][2](tmp_path / "archive.pt", clip_state())
    for name in ("x.pth", "archive.pt"):
        assert open_source(tmp_path / name).activation is None


def test_a_hugging_face_config_beside_a_lone_file(tmp_path):
    SOURCES["hugging face"][2](tmp_path / "pytorch_model.bin", clip_state())
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert open_source(tmp_path / "pytorch_model.bin").activation is None
    config = {"text_config": {"hidden_act": GELU}, "vision_config": {"hidden_act": GELU, "image_size": [64, 16]}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8-sig")
    source = open_source(tmp_path / "pytorch_model.bin")
    assert source.activation == GELU and source.grid == (8, 2)


PREFIXES = ["module.", "_orig_mod.", "module._orig_mod.", "model.", "student.model._orig_mod.module.", "ema.module."]


@pytest.mark.parametrize("inner", ["", "_orig_mod.", "module.", "model.", "_orig_mod.model."])
@pytest.mark.parametrize("outer", ["", *PREFIXES])
def test_wrappers_in_any_place(tmp_path, outer, inner):
    state = {f"{outer}base_model.{inner}{name}": value for name, value in clip_state().items()}
    state[f"{outer}logit_scale"] = state.pop(f"{outer}base_model.{inner}logit_scale")
    torch.save(state, tmp_path / "x.pth")
    source = open_source(tmp_path / "x.pth")
    assert source.kind == "unireid" and not source.surplus
    assert same(loaded(source), as_arrays(unireid_state(clip_state())))
    assert {name for names in source.origins.values() for name in names} == state.keys()


@pytest.mark.parametrize("rename", [dict, huggingface_state])
def test_a_clip_inside_pefts_wrapper(tmp_path, rename):
    torch.save({f"base_model.model.{name}": v for name, v in rename(clip_state()).items()}, tmp_path / "x.pth")
    assert same(loaded(open_source(tmp_path / "x.pth")), as_arrays(unireid_state(clip_state())))


@pytest.mark.parametrize("outer", PREFIXES)
@pytest.mark.parametrize("rename", [dict, huggingface_state])
def test_wrapped_clips_with_wrapped_towers(tmp_path, outer, rename):
    def wrapped(name):
        return name.replace("visual.", "visual._orig_mod.").replace(".mlp.", "._checkpoint_wrapped_module.mlp.")

    state = {outer + wrapped(name): value for name, value in rename(clip_state()).items()}
    torch.save({"model": state}, tmp_path / "x.pth")
    assert same(loaded(open_source(tmp_path / "x.pth")), as_arrays(unireid_state(clip_state())))


def test_a_long_clip_is_refused_with_the_reason(tmp_path):
    clip = clip_state(replace(SQUARE, context_length=248))
    save_openai(tmp_path / "x.pth", clip)
    assert open_source(tmp_path / "x.pth").model.context_length == 248
    for name in ("positional_embedding_res", "text_model.embeddings.position_embedding_res.weight"):
        save_openai(tmp_path / "x.pth", {**clip, name: clip["positional_embedding"]})
        with pytest.raises(CheckpointError, match="is a Long-CLIP, with two position tables"):
            open_source(tmp_path / "x.pth")


@pytest.mark.parametrize("extra", [{"logit_bias": torch.ones(1)}, {"vision_model.head.probe": torch.ones(1, 1, 64)}])
def test_a_siglip_is_refused_with_the_reason(tmp_path, extra):
    state = huggingface_state(clip_state()) | extra
    torch.save(state, tmp_path / "x.pth")
    assert open_source(tmp_path / "x.pth").kind == "huggingface_clip"  # a CLIP that was trained with SigLIP's loss
    del state["vision_model.embeddings.class_embedding"]
    for saved in (state, {"visual.trunk.attn_pool.latent": torch.ones(1)}):
        torch.save(saved, tmp_path / "x.pth")
        with pytest.raises(CheckpointError, match="is a SigLIP: it has no class token"):
            open_source(tmp_path / "x.pth")


def test_names_are_shown_escaped_and_cut(tmp_path):
    torch.save({"a\x1b[2K\n\u202eb": torch.ones(1), "c" * 399: torch.ones(1)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError) as caught:
        open_source(tmp_path / "x.pth")
    assert str(caught.value).isprintable() and len(str(caught.value)) < len(str(tmp_path)) + 500


OWN = Architecture(TowerSize(128, 3, 4), TowerSize(64, 2, 2), patch_size=8, embed_dim=48)
OF_OWN = replace(SQUARE, architecture=OWN)
HEADS_OF_CLIP = replace(OWN, vision=TowerSize(128, 3, 2), text=TowerSize(64, 2, 1))


@pytest.fixture
def registered(monkeypatch):
    """Return a function that registers architectures for one test."""
    return lambda **named: [monkeypatch.setitem(ARCHITECTURES, name, sizes) for name, sizes in named.items()]


@pytest.mark.parametrize("what", SOURCES)
def test_a_registered_architecture_is_recognised(tmp_path, registered, what):
    registered(own=OWN, wider=replace(OWN, embed_dim=64), deeper=replace(OWN, text=TowerSize(64, 3, 2)))
    kind, name, save = SOURCES[what]
    save(tmp_path / name, clip_state(OF_OWN))
    source = open_source(tmp_path / name)
    assert (source.kind, source.model.architecture, source.model.sizes) == (kind, "own", OWN)
    fit(source, replace(source.model, image_size=(48, 16)))


@pytest.mark.parametrize("what", SOURCES)
def test_other_sizes_are_described_with_clips_heads(tmp_path, what):
    kind, name, save = SOURCES[what]
    save(tmp_path / name, clip_state(OF_OWN))
    source = open_source(tmp_path / name)
    assert (source.kind, source.model.architecture) == (kind, HEADS_OF_CLIP)
    assert config_from_dict(to_dict(Config(model=source.model)), "x").model == source.model
    assert open_source(tmp_path / name, architecture=OWN).model.architecture == OWN


def test_the_heads_of_a_config_json_are_taken(tmp_path, registered):
    save_huggingface_folder(tmp_path / "x", clip_state(OF_OWN))
    sections = {f"{tower}_config": {"num_attention_heads": heads} for tower, heads in (("vision", 4), ("text", 2))}
    (tmp_path / "x" / "config.json").write_text(json.dumps(sections))
    assert open_source(tmp_path / "x").model.architecture == OWN
    registered(other=HEADS_OF_CLIP)
    assert open_source(tmp_path / "x").model.architecture == OWN
    registered(own=OWN)
    assert open_source(tmp_path / "x").model.architecture == "own"


def test_two_architectures_that_fit_are_named(tmp_path, registered):
    registered(first=OWN, second=HEADS_OF_CLIP)
    save_openai(tmp_path / "x.pth", clip_state(OF_OWN))
    with pytest.raises(
        CheckpointError, match=r"x\.pth: fits the architectures first and second; set model\.arch"
    ) as words:
        open_source(tmp_path / "x.pth")
    assert "--architecture" in str(words.value) and "\n" not in str(words.value)
    for name, sizes in (("first", OWN), ("second", HEADS_OF_CLIP)):
        assert open_source(tmp_path / "x.pth", architecture=name).model.sizes == sizes
    assert open_source(tmp_path / "x.pth", architecture=OWN).model.architecture == OWN
    with pytest.raises(CheckpointError, match="fits the architectures first and second"):
        open_source(tmp_path / "x.pth", architecture="tiny")


def test_the_description_gives_the_architecture(tmp_path, registered):
    registered(first=OWN, second=HEADS_OF_CLIP)
    entries = [Entry.of(name, array) for name, array in as_arrays(unireid_state(clip_state(OF_OWN))).items()]
    for architecture in ("second", OWN, replace(OWN, text=TowerSize(64, 2, 4))):
        meta = {"config": to_dict(Config(model=replace(OF_OWN, architecture=architecture)))}
        write_mindspore(tmp_path / "x.ckpt", entries, {META: json.dumps(meta)})
        assert open_source(tmp_path / "x.ckpt").model.architecture == architecture
    meta = {"config": to_dict(Config(model=SQUARE))}
    write_mindspore(tmp_path / "x.ckpt", entries, {META: json.dumps(meta)})
    with pytest.raises(CheckpointError, match=r"x\.ckpt: has vision width 128.*but its description says tiny"):
        open_source(tmp_path / "x.ckpt")


def without_the_text_tower(clip):
    return {name: value for name, value in clip.items() if name.startswith("visual.")}


@pytest.mark.parametrize(
    ("sizes", "change", "words"),
    [
        (replace(OWN, vision=TowerSize(96, 3, 4)), dict, "vision width 96, vision layers 3, text width 64"),
        (replace(OWN, text=TowerSize(48, 2, 3)), dict, "text width 48, text layers 2, patch size 8, embed dim 48"),
        (OWN, without_the_text_tower, "vision width 128, vision layers 3, patch size 8, embed dim 48;"),
        (OWN, lambda clip: {**clip, "ln_final.bias": torch.ones(3)}, "is not a complete CLIP"),
        (OWN, lambda clip: {n: v for n, v in clip.items() if n != "visual.ln_pre.bias"}, "is not a complete CLIP"),
        (
            OWN,
            lambda clip: {**clip, "visual.conv1.weight": torch.ones(128, 3, 8, 4)},
            r"patch embedding of shape \(128",
        ),
    ],
    ids=["vision", "text", "one tower", "another shape", "missing", "no square patch"],
)
def test_sizes_that_nothing_fits_are_named(tmp_path, sizes, change, words):
    save_openai(tmp_path / "x.pth", change(clip_state(replace(SQUARE, architecture=sizes))))
    with pytest.raises(CheckpointError, match=words) as caught:
        open_source(tmp_path / "x.pth")
    assert str(caught.value).startswith(f"{tmp_path}/x.pth: ") and "\n" not in str(caught.value)
