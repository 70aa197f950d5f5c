"""Configuration: base chains, overrides, checked keys and types, refused combinations, the published defaults."""

import dataclasses
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_unireid import config as config_module
from ms_unireid import config_schema
from ms_unireid.config import (
    Config,
    ModelConfig,
    config_from_dict,
    load_config,
    register_architecture,
    to_dict,
    to_yaml,
)
from ms_unireid.config_schema import ARCHITECTURES, Architecture, TowerSize
from ms_unireid.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SHIPPED = sorted(CONFIGS.rglob("*.yaml"))

# Section 5.1 of the paper, and the authors' code where the paper is silent.
PUBLISHED = {
    "model.architecture": "ViT-B/16",
    "model.image_size": (384, 128),
    "model.stride": None,
    "model.context_length": 77,
    "model.temperature": 0.07,
    "model.learnable_temperature": True,
    "data.batch_size": 64,
    "data.sampler": "shuffle",
    "data.drop_last": False,
    "data.augment.flip": 0.5,
    "data.augment.pad": 10,
    "data.augment.erase": 0.5,
    "data.augment.share_geometry": False,
    "data.augment.drop_clauses": 0.0,
    "objective.tasks": ("text", "sketch", "fusion"),
    "objective.dynamic": True,
    "objective.alpha": 1.0,
    "objective.gamma": 3.5,
    "objective.detach_weights": False,
    "objective.positives": "pair",
    "objective.interaction_weight": 0.5,
    "train.epochs": 60,
    "train.learning_rate": 1e-5,
    "train.final_learning_rate": 0.0,
    "train.warmup_epochs": 5,
    "train.warmup_factor": 0.1,
    "train.warmup_steps": None,
    "train.bias_lr_factor": 2.0,
    "train.weight_decay": 4e-5,
    "train.bias_weight_decay": 0.0,
    "train.beta1": 0.9,
    "train.beta2": 0.999,
    "train.eps": 1e-3,
}

# Every rule: overrides that break it, and a word that its message must hold besides the key.
IMPOSSIBLE = [
    (["train.profile_steps=[0, 2]"], "train.profile_steps", "counted from 1"),
    (["train.profile_steps=[5, 4]"], "train.profile_steps", "the first and the last"),
    (["runtime.jit_level=O1", "runtime.graph_mode=false"], "runtime.jit_level", "set runtime.graph_mode=true"),
    (["model.architecture=ViT-B16"], "model.architecture", "ViT-B/16"),
    (["model.image_size=[384, 8]"], "model.image_size", "patch size 16"),
    (["model.image_size=[0, 128]"], "model.image_size", "patch size 16"),
    (["model.stride=0"], "model.stride", "between 1 and the patch size 16"),
    (["model.stride=17"], "model.stride", "between 1 and the patch size 16"),
    (["model.context_length=2"], "model.context_length", "between 3 and 77"),
    (["model.context_length=78"], "model.context_length", "between 3 and 77 tokens; data.long_captions=stretch allows"),
    (["model.context_length=248", "data.long_captions=split"], "model.context_length", "between 3 and 77"),
    (["data.long_captions=stretch"], "model.context_length", "between 78 and 248 tokens with data.long_captions"),
    (["model.context_length=249", "data.long_captions=stretch"], "model.context_length", "between 78 and 248"),
    (["model.temperature=0"], "model.temperature", "positive"),
    (["objective.tasks=[]"], "objective.tasks", "at least one"),
    (["objective.tasks=[text, text]"], "objective.tasks", "each once"),
    (["objective.tasks=[text]"], "objective.dynamic", "set it to false"),
    (["objective.tasks=[text]", "objective.dynamic=false"], "objective.interaction_weight", "set it to 0"),
    (["objective.interaction_weight=-0.5"], "objective.interaction_weight", "negative"),
    (["data.batch_size=1"], "data.batch_size", "at least 2"),
    (["data.sampler=identity", "data.instances=5"], "data.instances", "divide data.batch_size"),
    (["data.sampler=identity", "data.instances=0"], "data.instances", "divide data.batch_size"),
    (["data.augment.flip=1.5"], "data.augment.flip", "between 0 and 1"),
    (["data.augment.erase=-0.1"], "data.augment.erase", "between 0 and 1"),
    (["data.augment.drop_clauses=1.1"], "data.augment.drop_clauses", "between 0 and 1"),
    (["data.augment.pad=-1"], "data.augment.pad", "negative"),
    (["train.epochs=0"], "train.epochs", "at least 1"),
    (["train.seed=-1"], "train.seed", "negative"),
    (["train.warmup_epochs=-1"], "train.warmup_epochs", "negative"),
    (["train.warmup_steps=-1"], "train.warmup_steps", "negative"),
    (["train.learning_rate=0"], "train.learning_rate", "positive"),
    (["train.learning_rate=.nan"], "train.learning_rate", "a number"),
    (["train.learning_rate=.inf"], "train.learning_rate", "a number"),
    (["train.weight_decay=-1"], "train.weight_decay", "negative"),
    (["objective.gamma=-1"], "objective.gamma", "negative"),
    (["data.augment.share_geometry=true"], "data.augment.pad", "must be 0"),
    (["train.eval_every=0"], "train.eval_every", "at least 1"),
    (["train.log_every=0"], "train.log_every", "at least 1"),
    (["train.beta1=1"], "train.beta1", "[0, 1)"),
    (["train.beta2=-0.1"], "train.beta2", "[0, 1)"),
    (["train.eps=0"], "train.eps", "positive"),
    (["eval.batch_size=0"], "eval.batch_size", "at least 1"),
    (["runtime.workers=0"], "runtime.workers", "at least 1"),
    (["runtime.prefetch=0"], "runtime.prefetch", "at least 1"),
    (["runtime.prefetch=4611686018427387904"], "runtime.prefetch", "at most 10000"),
    (["runtime.initial_loss_scale=1e39"], "runtime.initial_loss_scale", "at most 1e+38"),
    (["runtime.workers=100000"], "runtime.workers", "at most 1024"),
    (["eval.batch_size=4611686018427387904"], "eval.batch_size", "at most 1000000"),
    (["model.image_size=[384, 100000]"], "model.image_size", "at most 4096"),
    (["data.augment.pad=100000"], "data.augment.pad", "at most 4096"),
]

# An override, and what its message must hold: key, expectation, what was found.
WRONG_TYPES = [
    ("train.profile_steps=[3]", "'train.profile_steps' must be a list of 2 values, found ['3']"),
    ("train.epochs=many", "'train.epochs' must be a whole number, found 'many'"),
    ("train.epochs=1.5", "'train.epochs' must be a whole number, found '1.5'"),
    ("train.epochs=true", "'train.epochs' must be a whole number, found 'true'"),
    ("train.epochs=null", "'train.epochs' must be a whole number, found 'null'"),
    ("train.learning_rate=fast", "'train.learning_rate' must be a number, found 'fast'"),
    ("train.learning_rate=true", "'train.learning_rate' must be a number, found 'true'"),
    ("train.learning_rate=[1]", "'train.learning_rate' must be a number"),
    ("objective.dynamic=1", "'objective.dynamic' must be true or false, found '1'"),
    ("data.root=", "'data.root' must be text, found ''"),
    ("model.image_size=384", "'model.image_size' must be a list of 2 values, found '384'"),
    ("model.image_size=[384]", "'model.image_size' must be a list of 2 values"),
    ("model.image_size=[384, wide]", "'model.image_size' must be a whole number, found 'wide'"),
    ("objective.tasks=text", "'objective.tasks' must be a list, found 'text'"),
    ("objective.tasks=[text, skech]", "did you mean 'sketch'?"),
    ("data.sampler=shufle", "did you mean 'shuffle'?"),
    ("data.sampler=[shuffle]", "'data.sampler' cannot be ['shuffle']"),
    ("eval.splits=[tset]", "did you mean 'test'?"),
    ("train=3", "train must hold keys, found '3'"),
    ("train=", "train must hold keys, found ''"),
]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path | None, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def lookup(config: Config, key: str) -> object:
    for part in key.split("."):
        config = getattr(config, part)
    return config


@pytest.mark.parametrize("key", PUBLISHED)
def test_defaults_are_the_published_settings(key):
    assert lookup(load_config(), key) == PUBLISHED[key]


@pytest.mark.parametrize("key", PUBLISHED)
@pytest.mark.parametrize("dataset", ["tri_cuhk_pedes", "tri_icfg_pedes", "tri_rstp_reid"])
def test_unireid_configs_are_the_published_settings(dataset, key):
    assert lookup(load_config(CONFIGS / dataset / "unireid.yaml"), key) == PUBLISHED[key]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_shipped_configs_load(path):
    assert isinstance(load_config(path).model.sizes, Architecture)


def test_there_are_shipped_configs():
    assert CONFIGS / "base.yaml" in SHIPPED and len(SHIPPED) >= 4


def test_base_chain_is_relative_to_each_file_and_later_wins(tmp_path, monkeypatch):
    write(tmp_path / "base.yaml", "train: {epochs: 1, seed: 11, log_every: 21}")
    write(tmp_path / "sub" / "middle.yaml", "base: ../base.yaml\ntrain: {epochs: 2, seed: 12}")
    top = write(tmp_path / "sub" / "deep" / "top.yaml", "base: ../middle.yaml\ntrain: {epochs: 3}")
    monkeypatch.chdir(tmp_path / "sub")
    train = load_config(top, ["train.epochs=4"]).train
    assert (train.epochs, train.seed, train.log_every) == (4, 12, 21)
    assert load_config(top).train.epochs == 3
    assert load_config("deep/top.yaml").train.epochs == 3


def test_an_installed_config_goes_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = load_config("tri_cuhk_pedes/unireid")
    assert named == load_config(CONFIGS / "tri_cuhk_pedes" / "unireid.yaml")
    assert load_config(Path("tri_cuhk_pedes/unireid.yaml")) == named
    assert load_config(["tri_cuhk_pedes/unireid", "devices/cpu"]).runtime.device == "CPU"
    own = write(tmp_path / "own.yaml", "base: tri_rstp_reid/text\ntrain: {epochs: 3}")
    assert (load_config(own).data.name, load_config(own).train.epochs) == ("rstp_reid", 3)


def test_a_file_that_exists_wins_over_an_installed_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smoke").mkdir()
    assert load_config("smoke").model.architecture == "tiny"
    write(tmp_path / "smoke.yaml", "train: {epochs: 7}")
    assert load_config("smoke.yaml").train.epochs == 7


@pytest.mark.parametrize("name", ["tri_cuhk_pedes/unired", "configs/tri_cuhk_pedes/unireid.yml"])
def test_a_wrong_name_is_refused_with_the_nearest_names(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refusal(Path(name))
    assert message.startswith(f"{name}: no such file") and "tri_cuhk_pedes/unireid" in message and "\n" not in message


def test_of_several_files_the_later_wins_key_by_key(tmp_path):
    first = write(tmp_path / "row.yaml", "train: {epochs: 1, seed: 11}")
    second = write(tmp_path / "device.yaml", "train: {epochs: 2}\nruntime: {workers: 5}")
    config = load_config([first, second], ["runtime.workers=6"])
    assert (config.train.epochs, config.train.seed, config.runtime.workers) == (2, 11, 6)
    assert load_config([second, first]).train.epochs == 1
    assert load_config([first]) == load_config(first)


def test_a_base_that_files_share_does_not_undo_the_first_file(tmp_path):
    write(tmp_path / "base.yaml", "train: {epochs: 1, seed: 11}")
    row = write(tmp_path / "rows" / "row.yaml", "base: ../base.yaml\ntrain: {epochs: 2, seed: 12}")
    overlay = write(tmp_path / "overlay.yaml", "base: base.yaml\ntrain: {seed: 13}")
    train = load_config([row, overlay]).train
    assert (train.epochs, train.seed) == (2, 13)


def test_a_refused_combination_names_every_file_that_was_given(tmp_path):
    first = write(tmp_path / "row.yaml", "model: {stride: 99}")
    second = write(tmp_path / "device.yaml", "train: {epochs: 2}")
    with pytest.raises(ConfigError) as caught:
        load_config([first, second], ["train.seed=3"])
    assert str(caught.value).startswith(f"{first}, {second}, override 'train.seed=3': model.stride")


@pytest.mark.parametrize("device", ["cpu", "gpu", "ascend"])
def test_a_device_overlay_changes_how_a_row_runs_and_not_its_experiment(device):
    row = load_config(CONFIGS / "tri_cuhk_pedes" / "unireid.yaml")
    config = load_config([CONFIGS / "tri_cuhk_pedes" / "unireid.yaml", CONFIGS / "devices" / f"{device}.yaml"])
    assert config.runtime.device.lower() == device
    same_steps = dataclasses.replace(config.train, cache_chunk=row.train.cache_chunk)
    same_numbers = dataclasses.replace(config.eval, batch_size=row.eval.batch_size)
    assert dataclasses.replace(config, runtime=row.runtime, train=same_steps, eval=same_numbers) == row


def test_the_last_override_wins():
    assert load_config(None, ["train.epochs=4", "train.epochs=5"]).train.epochs == 5


def test_empty_file_is_the_defaults(tmp_path):
    assert load_config(write(tmp_path / "empty.yaml", "# nothing\n")) == Config()


def test_circular_base_is_refused(tmp_path):
    first = write(tmp_path / "a.yaml", "base: b.yaml")
    write(tmp_path / "b.yaml", "base: a.yaml")
    assert "a.yaml: `base:` leads back" in refusal(first)
    assert "leads back" in refusal(write(tmp_path / "own.yaml", "base: own.yaml"))


def test_missing_file_and_missing_base_are_named(tmp_path):
    assert f"{tmp_path / 'no.yaml'}: no such file" in refusal(tmp_path / "no.yaml")
    top = write(tmp_path / "top.yaml", "base: gone.yaml")
    assert "gone.yaml: no such file" in refusal(top)
    assert "cannot be read" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: [", "not valid YAML"),
        ("- train", "the file must hold keys, found ['train']"),
        ("train", "the file must hold keys, found 'train'"),
        ("base: [a, b]", "'base' must be text"),
        ("train: 3", "train must hold keys"),
        ("train:", "train must hold keys"),
    ],
)
def test_malformed_files_are_named(tmp_path, text, words):
    path = write(tmp_path / "bad.yaml", text)
    message = refusal(path)
    assert str(path) in message and words in message
    assert "\n" not in message


def test_binary_file_is_refused(tmp_path):
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\x00\x81")
    assert f"{path}: cannot be read (not UTF-8 text (UTF-16" in refusal(path)


@pytest.mark.parametrize("text", ["1e-5", "1.0e-5", "0.00001"])
def test_every_spelling_of_a_small_number(tmp_path, text):
    assert load_config(None, [f"train.learning_rate={text}"]).train.learning_rate == 1e-5
    path = write(tmp_path / "rate.yaml", f"train: {{learning_rate: {text}}}")
    assert load_config(path).train.learning_rate == 1e-5


def test_lists_become_tuples_and_whole_numbers_floats():
    config = load_config(None, ["model.image_size=[96, 32]", "objective.alpha=2", "eval.splits=[test]"])
    assert config.model.image_size == (96, 32)
    assert config.eval.splits == ("test",)
    assert config.objective.alpha == 2.0 and isinstance(config.objective.alpha, float)
    assert load_config(None, ["eval.splits=null"]).eval.splits is None


def test_an_override_may_set_a_whole_section():
    assert load_config(None, ["data.augment={flip: 0, pad: 3}"]).data.augment.pad == 3


@pytest.mark.parametrize(
    ("override", "key", "nearest"),
    [
        ("train.epoch=3", "train.epoch", "train.epochs"),
        ("trian.epochs=3", "trian", "train"),
        ("data.augment.flipp=1", "data.augment.flipp", "data.augment.flip"),
        ("objective.intraction_weight=0", "objective.intraction_weight", "objective.interaction_weight"),
    ],
)
def test_unknown_keys_name_source_key_and_nearest(tmp_path, override, key, nearest):
    message = refusal(None, override)
    assert f"override '{override}'" in message
    assert f"unknown key '{key}'; did you mean '{nearest}'?" in message
    *sections, last = override.split("=")[0].split(".")
    text = "".join(f"{'  ' * depth}{name}:\n" for depth, name in enumerate(sections))
    path = write(tmp_path / "wrong.yaml", f"{text}{'  ' * len(sections)}{last}: 1\n")
    assert f"{path}: unknown key '{key}'; did you mean '{nearest}'?" in refusal(path)


def test_an_unknown_key_of_a_base_names_the_base(tmp_path):
    base = write(tmp_path / "base.yaml", "train: {epoch: 1}")
    top = write(tmp_path / "top.yaml", "base: base.yaml\ntrain: {epochs: 1}")
    assert str(base) in refusal(top)


@pytest.mark.parametrize(("override", "words"), WRONG_TYPES)
def test_wrong_types(tmp_path, override, words):
    message = refusal(None, override)
    assert f"override '{override}'" in message and words in message


@pytest.mark.parametrize("override", ["train.epochs", "=3", "train.epochs=[", "--epochs"])
def test_malformed_overrides(override):
    assert f"override '{override}'" in refusal(None, override)


@pytest.mark.parametrize(("overrides", "key", "words"), IMPOSSIBLE)
def test_impossible_combinations(overrides, key, words):
    message = refusal(None, *overrides)
    assert key in message and words in message
    assert overrides[-1] in message


def test_a_refused_value_names_the_file_it_may_come_from(tmp_path):
    path = write(tmp_path / "stride.yaml", "model: {stride: 99}")
    assert str(path) in refusal(path)
    assert str(path) in refusal(path, "train.epochs=3")


@pytest.mark.parametrize("path", [None, *SHIPPED], ids=lambda p: p.stem if p else "defaults")
def test_yaml_round_trip(tmp_path, path):
    config = load_config(path, ["train.learning_rate=1e-7", "eval.splits=[train, test]", "model.stride=8"])
    assert load_config(write(tmp_path / "again.yaml", to_yaml(config))) == config
    assert config_from_dict(to_dict(config), "a checkpoint") == config


def test_a_config_from_a_dictionary_names_its_source():
    values = to_dict(Config())
    values["train"]["epoch"] = 3
    with pytest.raises(ConfigError, match=r"x\.ckpt: unknown key 'train.epoch'; did you mean 'train.epochs'"):
        config_from_dict(values, "x.ckpt")


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ModelConfig().stride = 3


DESCRIBED = {
    "vision": {"width": 96, "layers": 3, "heads": 4},
    "text": {"width": 64, "layers": 2, "heads": 2},
    "patch_size": 8,
    "embed_dim": 48,
}


def test_an_architecture_is_described_in_a_config(tmp_path):
    (tmp_path / "own.yaml").write_text(f"model:\n  architecture: {DESCRIBED}\n  image_size: [32, 16]\n")
    config = load_config(tmp_path / "own.yaml", ["model.architecture.vision.layers=5"])
    assert config.model.sizes == Architecture(TowerSize(96, 5, 4), TowerSize(64, 2, 2), 8, 48)
    assert config.model.patch_stride == 8 and config.model.sizes.vocabulary_size == 49408
    assert config_from_dict(to_dict(config), "x") == config
    (tmp_path / "back.yaml").write_text(to_yaml(config))
    assert load_config(tmp_path / "back.yaml") == config
    assert load_config(tmp_path / "back.yaml", ["model.architecture=tiny"]).model.architecture == "tiny"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vision": {"width": 96, "layers": 3}}, r"'model\.architecture\.vision\.heads' is missing"),
        (
            {"vision": {"width": 96, "layers": 3, "heads": 5}},
            r"model\.architecture: vision\.heads must divide the width 96",
        ),
        ({"text": 7}, r"'model\.architecture\.text' must hold the keys width, layers, heads, found '7'"),
        ({"patch": 8}, r"unknown key 'model\.architecture\.patch'; did you mean 'model\.architecture\.patch_size'"),
        ({"embed_dim": 0}, r"embed_dim must be at least 1"),
        ({"patch_size": 64}, r"model\.image_size must be at least the patch size 64"),
        ({"vocabulary_size": 100}, r"vocabulary_size must be at least 515"),
    ],
    ids=str,
)
def test_a_description_that_cannot_work_is_refused(tmp_path, changes, words):
    (tmp_path / "own.yaml").write_text(f"model:\n  architecture: {DESCRIBED | changes}\n  image_size: [32, 16]\n")
    with pytest.raises(ConfigError, match=rf"own\.yaml.*{words}"):
        load_config(tmp_path / "own.yaml")


def test_a_program_registers_an_architecture(monkeypatch):
    monkeypatch.setattr(config_schema, "ARCHITECTURES", dict(ARCHITECTURES))
    monkeypatch.setattr(config_module, "ARCHITECTURES", config_schema.ARCHITECTURES)
    own = Architecture(TowerSize(96, 3, 4), TowerSize(64, 2, 2), 8, 48)
    register_architecture("own", own)
    register_architecture("own", own)
    assert load_config(None, ["model.architecture=own"]).model.sizes == own
    with pytest.raises(ConfigError, match=r"architecture 'own': is registered with other sizes"):
        register_architecture("own", dataclasses.replace(own, embed_dim=32))
    with pytest.raises(ConfigError, match=r"architecture 'odd': text\.layers must be at least 1"):
        register_architecture("odd", dataclasses.replace(own, text=TowerSize(64, 0, 2)))


# Texts that YAML's own types would change, and what a user means by them.
AS_WRITTEN = [
    "2026-11-29", "2026-02-30", "007", "1_000", "0x10", "1:30", "1e5", ".inf", "true", "yes", "no", "null", "~",
    "[x", "{x", "'x", "*a", "&a b", "!x", "x # y", "a: b", "- x", "|", "%x", "@x", "C:\\x",
]  # fmt: skip


@pytest.mark.parametrize("text", AS_WRITTEN)
def test_a_key_for_text_takes_it_as_it_is_written(text):
    assert load_config(None, [f"train.output={text}"]).train.output == text
    assert load_config(None, [f"train.output= {text} ", "data.root='a b'"]).train.output == text
    optional = load_config(None, [f"model.pretrained={text}"]).model.pretrained
    assert optional == (None if text in ("null", "~") else text)


def test_a_text_in_quotes_is_never_null():
    config = load_config(None, ["model.pretrained='null'", 'data.root="2026-11-29"'])
    assert (config.model.pretrained, config.data.root) == ("null", "2026-11-29")


def test_the_field_decides_in_a_file_as_well(tmp_path):
    path = write(tmp_path / "own.yaml", "train: {output: 2026-02-30, resume: ~}\ndata: {root: 010, captions: no}")
    config = load_config(path)
    assert (config.train.output, config.train.resume) == ("2026-02-30", None)
    assert (config.data.root, config.data.captions) == ("010", "no")


@pytest.mark.parametrize(
    "text", ["010", "0x10", "1_000", "1:30", "3.0", "1e3", "９", "9" * 5000, "yes", "", "&a 3", "!!int 3"]
)
def test_a_whole_number_is_written_in_plain_digits(tmp_path, text):
    path = write(tmp_path / "own.yaml", f"\ntrain: {{epochs: {text}}}")
    for message in (refusal(None, f"train.epochs={text}"), refusal(path)):
        assert "train.epochs" in message or "anchors" in message
        assert "\n" not in message and len(message) < 400


@pytest.mark.parametrize("text", ["yes", "no", "on", "off", "1", "null"])
def test_only_true_and_false_are_booleans(text):
    assert "must be true or false" in refusal(None, f"objective.dynamic={text}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: {epochs: 1}\ndata: {}\ntrain: {seed: 3}", "key 'train' appears twice, line 3"),
        ("train:\n  epochs: 1\n  'epochs': 2", "key 'epochs' appears twice, line 3"),
        ("a: &a [x, x]\nb: [*a, *a]", "anchors, aliases and tags are not read"),
        ("train: &a {epochs: 1}\ndata:\n  <<: *a", "line 1"),
        ("train: {<<: {epochs: 1}}", "unknown key 'train.<<'"),
        ("train: !!python/object/apply:os.system [x]", "tags are not read"),
        ("train:\n  epochs: !!binary aGk=", "tags are not read; put text that begins with & * or ! in quotes, line 2"),
        ("? [a]\n: b", "a key must be text, line 1"),
        ("train: {epochs: 1}\n---\ntrain: {epochs: 2}", "another document, line 2"),
        ("[" * 5000, "more than 20 levels"),
        ("\n".join(" " * depth + "a:" for depth in range(200)), "more than 20 levels, line 20"),
        ("train:\n\tepochs: 1", "line 2"),
        ("train:\n  output: a\n  epochs: many", "found 'many' (line 3)"),
        ("train:\n  output: a\n  epohs: 3", "(line 3)"),
        (f"%YAML 1.{'9' * 5000}\n--- {{}}", "not valid YAML"),
        ('train: {output: "\\UFFFFFFFF"}', "not valid YAML"),
        ('train: {output: "\\ud83d"}', "must be Unicode text"),
        ('train: {output: "a\\0b"}', "must be Unicode text"),
        ("train: {output: a\x1b[2Kb}", "not valid YAML"),
        ("#" * 10**6, "larger than 32 KiB"),
        (f"{'k' * 1000}: 1", "unknown key 'kkk"),
        (f"train: {{epochs: {'x' * 30000}}}", "whole number"),
    ],
    ids=lambda text: text[:20],
)
def test_yaml_that_means_two_things_or_breaks_a_reader(tmp_path, text, words):
    message = refusal(write(tmp_path / "bad.yaml", text))
    assert str(tmp_path / "bad.yaml") in message and words in message
    assert message.isprintable() and len(message) < 900


@pytest.mark.parametrize("key", [".".join("a" * 5000), "k" * 10**6, f"train.{'k' * 10**6}", "tr\x1b[2Kain.x", "\udcff"])
def test_strange_keys_of_overrides_are_shown_short(key):
    message = refusal(None, f"{key}=1")
    assert message.startswith("override '") and message.isprintable() and len(message) < 1000


@pytest.mark.parametrize("base", ["pipe", "/dev/zero", ".", "loop", "x" * 5000, '"a\\0b"', "gone/..", "no"])
def test_a_base_that_is_no_file(tmp_path, base):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for path in (write(tmp_path / "top.yaml", f"base: {base}"), tmp_path / "pipe", Path("a\0b"), Path("x" * 5000)):
        message = refusal(path)
        assert message.isprintable() and len(message) < 1000


def test_a_long_chain_of_bases(tmp_path):
    for number in range(30):
        write(tmp_path / f"{number}.yaml", f"base: {number + 1}.yaml")
    assert "more than 20 `base:` away from the first file" in refusal(tmp_path / "0.yaml")
    write(tmp_path / "15.yaml", "train: {epochs: 7}")
    assert load_config(tmp_path / "0.yaml").train.epochs == 7


DEEP = {}
for _ in range(900):
    DEEP = {"a": DEEP}


@pytest.mark.parametrize(
    "values",
    [
        5, None, [], "x", DEEP, {"train": DEEP}, {"train": {"epochs": DEEP}}, {"train": {"epochs": 10**400}},
        {"train": {"learning_rate": 10**400}}, {"train": {"learning_rate": float("nan")}}, {"train": {"output": 5}},
        {"train": {"output": "\ud83d"}}, {"train": {"seeds": {"a": 1}}}, {"eval": {"missing_shares": [DEEP]}},
        {"data": {"name": DEEP}}, {"x" * 10**7: 1}, {5: 1}, {"model": {"architecture": {"vision": DEEP}}},
        {"model": {"architecture": "\x1b[2J" * 10**5}},
    ],
    ids=lambda values: repr(values)[:30],
)  # fmt: skip
def test_a_config_inside_another_file_is_not_trusted(values):
    with pytest.raises(ConfigError, match=r"^x\.ckpt: ") as caught:
        config_from_dict(values, "x.ckpt")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


_TEXTS = st.sampled_from(
    [*AS_WRITTEN, "", "-", " x", "x ", "\u2028", "\x85", "\ufeff", "a\r\n b", "'", '"', "#", "=", "<<"]
)
_TEXTS |= st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@settings(max_examples=40, deadline=None)
@given(_TEXTS, _TEXTS | st.none(), st.floats(1e-300, 1e300), st.lists(st.integers(0, 2**62), max_size=4, unique=True))
def test_what_is_written_is_read_back(tmp_path_factory, output, pretrained, rate, seeds):
    config = dataclasses.replace(
        Config(),
        train=dataclasses.replace(Config().train, output=output, learning_rate=rate, seeds=tuple(seeds)),
        model=dataclasses.replace(Config().model, pretrained=pretrained),
    )
    path = tmp_path_factory.getbasetemp() / "back.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert load_config(path) == config == config_from_dict(to_dict(config), "x")
