"""Reading a configuration: YAML with `base:` and `a.b=c` overrides into `config_schema`'s dataclasses."""

import contextlib
import dataclasses
import difflib
import math
import os
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import yaml

from ms_unireid.config_schema import (
    ARCHITECTURES,
    CONTEXT_LENGTH,
    GALLERY_RULES,
    PRECISIONS,
    PROTOCOLS,
    STRETCHED_LENGTH,
    TASKS,
    Architecture,
    AugmentConfig,
    Config,
    DataConfig,
    EvalConfig,
    ModelConfig,
    ObjectiveConfig,
    RuntimeConfig,
    TrainConfig,
)
from ms_unireid.errors import ConfigError, escaped, is_unicode, shown
from ms_unireid.modalities import FUSION, TEXT, canonical, is_picture_name, modalities_of
from ms_unireid.plain_yaml import Scalar, parse_yaml, read_yaml

__all__ = [
    "GALLERY_RULES", "PROTOCOLS", "TASKS", "Architecture", "AugmentConfig", "Config", "DataConfig", "EvalConfig",
    "ModelConfig", "ObjectiveConfig", "RuntimeConfig", "TrainConfig", "config_from_dict", "load_config", "overridden",
    "register_architecture", "to_dict", "to_yaml", "with_model",
]  # fmt: skip

# The installed configs; in a checkout a link to the top-level folder.
CONFIGS = Path(__file__).with_name("configs")
_LONGEST_CHAIN = 20  # files
_LARGEST = 2**63 - 1
_WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9]{,18})")
_NUMBER = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
# (whether the rule holds, key, what the key must be)
_Rules = Iterator[tuple[bool, str, str]]


class _Unparsed(str):
    """The value of an override: a field for text takes it as it is written, other fields parse it as YAML."""


def load_config(
    path: str | Path | typing.Sequence[str | Path] | None = None, overrides: typing.Sequence[str] = ()
) -> Config:
    """Read YAML files on top of their `base:` chains, apply overrides, check everything.

    `path` is a YAML file or the name of an installed config, such as "tri_cuhk_pedes/unireid"; a file that exists wins.
    Of several a later one wins; None starts from the defaults. `overrides` are `section.key=value` strings, which win
    over the file. A key for text takes the value as it is written or in quotes, other keys take YAML.

    An unknown key or a wrong value raises a ConfigError that names file or override, the key and the nearest valid one.
    """
    files = [] if path is None else [path] if isinstance(path, (str, Path)) else path
    layers: dict[str, tuple[str, dict]] = {}
    for file in files:
        for source, values in _read_chain(_find(Path(file)), ()):
            # A base that several files share is read once, at its first place: later it would undo the files between.
            layers.setdefault(os.path.realpath(source), (source, values))
    return _build(list(layers.values()), overrides, [str(file) for file in files])


def _installed() -> dict[str, Path]:
    return {path.relative_to(CONFIGS).with_suffix("").as_posix(): path for path in sorted(CONFIGS.rglob("*.yaml"))}


def _find(path: Path, folder: Path = Path()) -> Path:
    """Return the file, relative to the folder; if there is none, the installed config of this name."""
    file = folder / path
    return file if os.path.isfile(file) else _installed().get(path.as_posix().removesuffix(".yaml"), file)


def _unknown(name: str) -> ConfigError:
    near = ", ".join(difflib.get_close_matches(name.removesuffix(".yaml")[-100:], _installed(), n=3, cutoff=0.0))
    return ConfigError(f"{name}: no such file, and no installed config has this name; the nearest names are {near}")


def config_from_dict(values: dict[str, Any], source: str, overrides: typing.Sequence[str] = ()) -> Config:
    """Rebuild a config from `to_dict`'s form, for example the one kept in a checkpoint; see `load_config`.

    A ConfigError calls the values `source`.
    """
    return _build([(source, values)], overrides, [source])


def _build(layers: list[tuple[str, dict]], overrides: typing.Sequence[str], files: list[str]) -> Config:
    changes = [_parse_override(text) for text in overrides]
    config = _merged(Config(), layers + changes)
    # The values of a wrong combination may come from several layers: name every given file and override.
    _check(config, ", ".join([*files, *(source for source, _ in changes)]) or "defaults")
    return config


def register_architecture(name: str, architecture: Architecture) -> None:
    """Make an architecture known by a name, for configs and for the recognition of checkpoints.

    Sizes that cannot work, or differ from those registered by this name, raise a ConfigError.
    """
    _check_rules(_architecture_rules(architecture), f"architecture '{name}':")
    if ARCHITECTURES.setdefault(name, architecture) != architecture:
        raise ConfigError(f"architecture '{name}': is registered with other sizes; choose another name")


def with_model(config: Config, model: ModelConfig) -> Config:
    """Return a config with another model, and with the rule for long captions that a table longer than CLIP's means."""
    rule = "stretch" if model.context_length > CONTEXT_LENGTH else config.data.long_captions
    return dataclasses.replace(config, model=model, data=dataclasses.replace(config.data, long_captions=rule))


def overridden(section: Any, values: dict[str, Any], source: str, overrides: typing.Sequence[str] = ()) -> Any:
    """Return a frozen dataclass with values on top, then `key=value` texts; a wrong key or type raises a ConfigError.

    It names `source` or the text.
    """
    return _merged(section, [(source, values), *map(_parse_override, overrides)])


def _merged(section: Any, layers: list[tuple[str, dict]]) -> Any:
    for source, values in layers:
        section = _merge(section, values, source, "")
    return section


def to_dict(config: Any) -> dict[str, Any]:
    """Turn a config (or one section) into plain dictionaries and lists, ready for YAML or JSON."""
    return dataclasses.asdict(config, dict_factory=lambda kv: {k: list(v) if type(v) is tuple else v for k, v in kv})


def to_yaml(config: Any) -> str:
    """Write a config as YAML that `load_config` reads back to an equal one."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def _read_chain(path: Path, seen: tuple[str, ...]) -> list[tuple[str, dict]]:
    if len(seen) > _LONGEST_CHAIN:
        raise ConfigError(f"{path}: is more than {_LONGEST_CHAIN} `base:` away from the first file; join some of them")
    name = escaped(str(path), 500)
    try:
        values = read_yaml(path)
    except FileNotFoundError as error:
        raise _unknown(name) from error
    here = os.path.realpath(path)
    if here in seen:
        raise ConfigError(f"{name}: `base:` leads back to this file; remove the circle")
    base = _convert(values.pop("base", None), str | None, name, "base") if isinstance(values, dict) else None
    below = [] if base is None else _read_chain(_find(Path(base), path.parent), (*seen, here))
    return [*below, (str(path), values)]


def _parse_override(text: str) -> tuple[str, dict[str, Any]]:
    """Return what to call the override in an error, and its value in dictionaries."""
    key, equals, value = text.partition("=")
    source = f"override '{escaped(text)}'"
    if not equals or not key.strip():
        raise ConfigError(f"{source}: expected section.key=value, for example train.epochs=1")
    parsed: Any = _Unparsed(value)
    for part in reversed(key.strip().split(".")):
        parsed = {part: parsed}
    return source, parsed


def _parsed(value: _Unparsed, hint: Any, source: str) -> Any:
    """Read the value of an override for a field."""
    text = value.strip()
    if not _is_text(hint):
        return parse_yaml(text, source)
    if text[:1] in ("'", '"') and text[:1] == text[-1:]:
        with contextlib.suppress(ConfigError):
            found = parse_yaml(text, source)
            return found if isinstance(found, Scalar) else Scalar(text)
    return Scalar(text)


def _is_text(hint: Any) -> bool:
    is_list = typing.get_origin(hint) is tuple
    return not is_list and set(typing.get_args(hint) or (hint,)) - {types.NoneType} == {str}


def _merge(section: Any, values: Any, source: str, prefix: str) -> Any:
    """Return `section` with `values` on top, every key and type checked."""
    if not isinstance(values, dict):
        name = prefix.rstrip(".") or "the file"
        raise ConfigError(f"{source}: {name} must hold keys, found {_found(values)}; write {prefix}key=value")
    hints = typing.get_type_hints(type(section))
    changed = {}
    for key, value in values.items():
        _check_key(key, hints, source, prefix)
        current, hint = getattr(section, key), hints[key]
        if isinstance(value, _Unparsed):
            value = _parsed(value, hint, source)
        if dataclasses.is_dataclass(hint) or (dataclasses.is_dataclass(current) and isinstance(value, dict)):
            changed[key] = _merge(current, value, source, f"{prefix}{key}.")
        else:
            changed[key] = _convert(value, hint, source, f"{prefix}{key}")
    return dataclasses.replace(section, **changed)


def _check_key(key: Any, valid: typing.Iterable[str], source: str, prefix: str) -> None:
    if key not in valid:
        name, place = escaped(str(key)), getattr(key, "place", "")
        raise ConfigError(f"{source}: unknown key '{prefix}{name}'{_suggest(name, valid, prefix)}{place}")


def _suggest(key: str, valid: typing.Iterable[str], prefix: str = "") -> str:
    (near,) = difflib.get_close_matches(key, valid, n=1, cutoff=0.0)
    return f"; did you mean '{prefix}{near}'? Valid: {', '.join(valid)}"


def _found(value: Any) -> str:
    return shown(value) + getattr(value, "place", "")


def _convert(value: Any, hint: Any, source: str, key: str) -> Any:
    """Check a value of YAML or JSON against a field's type and return it as that type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if types.NoneType in args and (value is None or getattr(value, "is_null", False)):
            return None
        described = [kind for kind in args if dataclasses.is_dataclass(kind)]
        return _convert(value, described[0] if described and isinstance(value, dict) else args[0], source, key)
    if dataclasses.is_dataclass(hint):
        return _described(value, hint, source, key)
    if origin is Literal:
        if value not in args:
            near = _suggest(escaped(str(value)), [str(a) for a in args])
            raise ConfigError(f"{source}: '{key}' cannot be {_found(value)}{near}")
        return args[args.index(value)]
    if origin is tuple:
        length = None if args[-1] is Ellipsis else len(args)
        if not isinstance(value, (list, tuple)) or (length is not None and len(value) != length):
            raise ConfigError(
                f"{source}: '{key}' must be a list{f' of {length} values' if length else ''}, found {_found(value)}"
            )
        return tuple(_convert(item, args[0], source, key) for item in value)
    return _scalar(value, hint, source, key)


def _described(values: Any, kind: type, source: str, key: str) -> Any:
    """Build a dataclass from a dictionary that must hold all of its fields."""
    hints = typing.get_type_hints(kind)
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: '{key}' must hold the keys {', '.join(hints)}, found {_found(values)}")
    for name in values:
        _check_key(name, hints, source, f"{key}.")
    for field in dataclasses.fields(kind):
        if field.name not in values and field.default is dataclasses.MISSING:
            raise ConfigError(f"{source}: '{key}.{field.name}' is missing; '{key}' needs {', '.join(hints)}")
    return kind(**{name: _convert(value, hints[name], source, f"{key}.{name}") for name, value in values.items()})


def _scalar(value: Any, kind: type, source: str, key: str) -> Any:
    found = _read_text(value, kind) if isinstance(value, str) else value
    if kind is float and type(found) is int and abs(found) <= _LARGEST:
        found = float(found)
    if type(found) is kind and (kind is bool or _is_usable(found)):
        return found
    text = "Unicode text without NUL" if isinstance(value, str) and value else "text"
    expected = {float: "a number", int: "a whole number", bool: "true or false", str: text}[kind]
    fix = "; write it in plain digits" if kind in (int, float) and isinstance(value, str) else ""
    raise ConfigError(f"{source}: '{key}' must be {expected}, found {_found(value)}{fix}")


def _read_text(text: str, kind: type) -> Any:
    """Read a text as a value of a kind; None if it is none."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower())
    if kind is int:
        return int(text) if _WHOLE.fullmatch(text) else None
    if kind is float:
        return float(text) if _NUMBER.fullmatch(text) else None
    return None if text == "" and not getattr(text, "quoted", True) else str(text)


def _is_usable(value: Any) -> bool:
    """Whether a number can be computed with, and a text be the name of a file."""
    if isinstance(value, str):
        return is_unicode(value)
    return math.isfinite(value) if isinstance(value, float) else abs(value) <= _LARGEST


def _check(config: Config, source: str) -> None:
    """Refuse combinations that cannot work, before anything is loaded."""
    model = config.model
    if not isinstance(model.architecture, str):
        _check_rules(_architecture_rules(model.architecture), f"{source}: model.architecture:")
    elif model.architecture not in ARCHITECTURES:
        name = escaped(model.architecture)
        raise ConfigError(f"{source}: unknown model.architecture '{name}'{_suggest(name, ARCHITECTURES)}")
    for rules in (_model_rules, _data_rules, _objective_rules, _train_rules, _runtime_rules, _upper_rules):
        _check_rules(rules(config), f"{source}:")


def _check_rules(rules: _Rules, source: str) -> None:
    for holds, key, rule in rules:
        if not holds:
            raise ConfigError(f"{source} {key} {rule}")


def _architecture_rules(sizes: Architecture) -> _Rules:
    for name, tower in (("vision", sizes.vision), ("text", sizes.text)):
        for key, value in dataclasses.asdict(tower).items():
            yield value >= 1, f"{name}.{key}", "must be at least 1"
        yield tower.layers <= 1000, f"{name}.layers", "must be at most 1000"
        yield tower.width % tower.heads == 0, f"{name}.heads", f"must divide the width {tower.width}"
    yield sizes.patch_size >= 1, "patch_size", "must be at least 1"
    yield sizes.embed_dim >= 1, "embed_dim", "must be at least 1"
    enough = sizes.vocabulary_size > 514
    yield enough, "vocabulary_size", "must be at least 515: the bytes, a merge, start and end"


def _model_rules(config: Config) -> _Rules:
    model = config.model
    patch = model.sizes.patch_size
    fits = min(model.image_size) >= patch
    yield fits, "model.image_size", f"must be at least the patch size {patch} on both sides"
    yield 0 < model.patch_stride <= patch, "model.stride", f"must be between 1 and the patch size {patch}"
    least, most, rule = 3, CONTEXT_LENGTH, f"; data.long_captions=stretch allows up to {STRETCHED_LENGTH}"
    if config.data.long_captions == "stretch":
        least, most, rule = most + 1, STRETCHED_LENGTH, " with data.long_captions=stretch (Long-CLIP has 248)"
    fits = least <= model.context_length <= most
    yield fits, "model.context_length", f"must be between {least} and {most} tokens{rule}"
    yield model.temperature > 0, "model.temperature", "must be positive"


def _data_rules(config: Config) -> _Rules:
    data, augment = config.data, config.data.augment
    plain = all(map(is_picture_name, data.modalities))
    rule = "must be names of pictures: small letters, digits and _; text, photo, image and fusion have their meaning"
    yield plain, "data.modalities", rule
    yield len(set(data.modalities)) == len(data.modalities), "data.modalities", "must name each once"
    divides = data.sampler != "identity" or (data.instances > 0 and data.batch_size % data.instances == 0)
    yield data.batch_size >= 2, "data.batch_size", "must be at least 2: the loss contrasts pairs within a batch"
    yield divides, "data.instances", "must divide data.batch_size"
    shares = data.split_shares
    yield min(shares) >= 0 and abs(sum(shares) - 1) < 1e-6, "data.split_shares", "must not be negative, and 1 in sum"
    yield data.split_seed >= 0, "data.split_seed", "must not be negative"
    for key in ("flip", "erase", "drop_clauses"):
        yield 0 <= getattr(augment, key) <= 1, f"data.augment.{key}", "must be between 0 and 1"
    yield augment.pad >= 0, "data.augment.pad", "must not be negative"
    leaks = augment.share_geometry and augment.pad > 0
    rule = "must be 0 with data.augment.share_geometry: a border common to photo and sketch gives the pair away"
    yield not leaks, "data.augment.pad", rule


def _objective_rules(config: Config) -> _Rules:
    objective, known = config.objective, (TEXT, *config.data.modalities)
    tasks, weight = {*map(canonical, objective.tasks)}, objective.interaction_weight
    for key in ("tasks", "modulated", "aligned"):
        for task in getattr(objective, key):
            parts = modalities_of(task)
            if strange := [part for part in parts if part not in known]:
                hint = _suggest(escaped(strange[0]), [*known, FUSION])
                yield False, f"objective.{key}", f"names '{escaped(strange[0])}', which the data do not have{hint}"
            yield len(set(parts)) == len(parts), f"objective.{key}", f"names a modality of '{escaped(task)}' twice"
    yield (
        bool(tasks) and len(tasks) == len(objective.tasks),
        "objective.tasks",
        "must name at least one task, each once",
    )
    fix = "put both into objective.tasks or set it to"
    for key, pair, what, off in (
        ("dynamic", objective.modulated, "weighs {} against {}", "false"),
        ("interaction_weight", objective.aligned[::-1], "aligns {} with {}", "0"),
    ):
        there = {*map(canonical, pair)} <= tasks and len({*map(canonical, pair)}) == 2
        yield there or not getattr(objective, key), f"objective.{key}", f"{what.format(*pair)}: {fix} {off}"
    yield weight >= 0, "objective.interaction_weight", "must not be negative"
    for key in ("alpha", "gamma"):
        yield getattr(objective, key) >= 0, f"objective.{key}", "must not be negative"


def _train_rules(config: Config) -> _Rules:
    train = config.train
    for key in ("epochs", "eval_every", "log_every", "accumulation_steps", "checkpoint_every", "cache_chunk"):
        yield getattr(train, key) is None or getattr(train, key) >= 1, f"train.{key}", "must be at least 1"
    for key in ("learning_rate", "eps", "clip_norm"):
        yield getattr(train, key) is None or getattr(train, key) > 0, f"train.{key}", "must be positive"
    first, last = train.profile_steps or (1, 1)
    yield 1 <= first <= last, "train.profile_steps", "must be the first and the last of some steps, counted from 1"
    decay = train.ema_decay
    yield decay is None or 0 < decay < 1, "train.ema_decay", "must lie between 0 and 1"
    both = train.accumulation_steps > 1 and train.cache_chunk is not None
    yield not both, "train.cache_chunk", "cannot be combined with train.accumulation_steps: leave one of them out"
    seeds = train.seeds or ()
    yield len(set(seeds)) == len(seeds), "train.seeds", "must name each seed once"
    yield not (seeds and train.resume not in (None, "auto")), "train.seeds", "can only be resumed by train.resume=auto"
    factors = ("warmup_factor", "bias_lr_factor", "weight_decay", "bias_weight_decay", "final_learning_rate")
    for key in ("seed", "warmup_epochs", *factors):
        yield getattr(train, key) >= 0, f"train.{key}", "must not be negative"
    yield (train.warmup_steps or 0) >= 0, "train.warmup_steps", "must not be negative"
    for key in ("beta1", "beta2"):
        yield 0 <= getattr(train, key) < 1, f"train.{key}", "must lie in [0, 1)"


def _runtime_rules(config: Config) -> _Rules:
    for key in ("batch_size", "multi_query_photos"):
        yield getattr(config.eval, key) >= 1, f"eval.{key}", "must be at least 1"
    within = all(0 <= share <= 1 for share in config.eval.missing_shares)
    yield within, "eval.missing_shares", "must lie between 0 and 1"
    for key in ("workers", "prefetch", "loss_scale_window", "max_overflows"):
        yield getattr(config.runtime, key) >= 1, f"runtime.{key}", "must be at least 1"
    yield config.runtime.initial_loss_scale >= 1, "runtime.initial_loss_scale", "must be at least 1"
    compiles = config.runtime.graph_mode or config.runtime.jit_level == "auto"
    yield compiles, "runtime.jit_level", "is a level of compilation: leave it at auto, or set runtime.graph_mode=true"
    runtime = config.runtime
    rule = f"must be {' or '.join(PRECISIONS[runtime.encoder])} with runtime.encoder={runtime.encoder}"
    rule += "; int8 goes with onnxruntime" if runtime.precision == "int8" else ""
    yield runtime.precision in PRECISIONS[runtime.encoder], "runtime.precision", rule
    on_cpu = runtime.encoder == "mindspore" or runtime.device in ("auto", "CPU")
    yield on_cpu, "runtime.encoder", f"is {runtime.encoder} only on a CPU: leave it out, or set runtime.device=CPU"
    yield config.runtime.device_id >= 0, "runtime.device_id", "must not be negative"


def _upper_rules(config: Config) -> _Rules:
    """Refuse numbers that no memory and no float32 holds."""
    limits = (
        ("model.image_size", max(config.model.image_size), 4096),
        ("data.augment.pad", config.data.augment.pad, 4096),
        ("eval.batch_size", config.eval.batch_size, 1_000_000),
        ("runtime.workers", config.runtime.workers, 1024),
        ("runtime.prefetch", config.runtime.prefetch, 10_000),
        ("runtime.initial_loss_scale", config.runtime.initial_loss_scale, 1e38),
    )
    for key, value, most in limits:
        yield value <= most, key, f"must be at most {most}"
