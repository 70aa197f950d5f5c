"""The configuration: frozen dataclasses, read from YAML with `base:` and `a.b=c` overrides. No MindSpore."""

import dataclasses
import difflib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from ms_unireid.architectures import ARCHITECTURES
from ms_unireid.errors import ConfigError

TASKS = ("text", "sketch", "fusion")


@dataclass(frozen=True)
class ModelConfig:
    """The dual encoder.

    Attributes:
        architecture: A name in `ms_unireid.architectures.ARCHITECTURES`.
        image_size: Height and width in pixels.
        stride: Distance between patches in pixels; null means the patch size, less makes patches overlap.
        context_length: Length of a caption in tokens, start and end included.
        temperature: Initial tau of Eq. 1-2; the logit scale starts at ln(1 / tau).
        learnable_temperature: Train the logit scale (as the authors' code) or keep it (as the paper reads).
        pretrained: A checkpoint of ours to start from, logit scale and optimizer left out.
    """

    architecture: str = "ViT-B/16"
    image_size: tuple[int, int] = (384, 128)
    stride: int | None = None
    context_length: int = 77
    temperature: float = 0.07
    learnable_temperature: bool = True
    pretrained: str | None = None


@dataclass(frozen=True)
class AugmentConfig:
    """Training augmentation; probabilities and fractions 0-1, padding in pixels.

    Attributes:
        flip: Probability of a horizontal flip.
        pad: Black border added on every side before a random crop of the original size.
        erase: Probability of random erasing (2-40 % of the area, filled with the CLIP mean after normalisation).
        share_geometry: Give photo and sketch the same flip and crop; the authors draw them independently. Only with
            `pad: 0`: a border common to both tells the pair apart from every other without looking at the person.
    """

    flip: float = 0.5
    pad: int = 10
    erase: float = 0.5
    share_geometry: bool = False


@dataclass(frozen=True)
class DataConfig:
    """The data set and how batches are drawn from it.

    Attributes:
        name: `cuhk_pedes`, `icfg_pedes` or `rstp_reid`.
        root: The folder that holds the data set's folder, or that folder itself.
        batch_size: Pairs per step.
        sampler: `shuffle` (the authors' code: every (photo, sketch, caption) once an epoch),
            `distinct_identities` (the paper: a batch of different persons) or `identity` (K pairs per person).
        instances: K of the `identity` sampler.
        drop_last: Leave out the last, smaller batch of an epoch; the authors keep it.
        allow_identity_gaps: Accept training identities that are not consecutive.
        augment: Training augmentation.
    """

    name: Literal["cuhk_pedes", "icfg_pedes", "rstp_reid"] = "cuhk_pedes"
    root: str = "data"
    batch_size: int = 64
    sampler: Literal["shuffle", "distinct_identities", "identity"] = "shuffle"
    instances: int = 4
    drop_last: bool = False
    allow_identity_gaps: bool = False
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass(frozen=True)
class ObjectiveConfig:
    """The rows of Table 2.

    Attributes:
        tasks: Which of text, sketch and fusion are trained (Eq. 3).
        dynamic: Task-aware weights on text and sketch (Eq. 4-9).
        alpha: alpha_t of Eq. 8-9.
        gamma: Exponent of Eq. 8-9.
        detach_weights: Stop the gradient through the weights; the authors let it flow.
        interaction_weight: Factor of the cross-modality interaction L_c (Eq. 10); 0 leaves it out.
    """

    tasks: tuple[Literal["text", "sketch", "fusion"], ...] = TASKS
    dynamic: bool = True
    alpha: float = 1.0
    gamma: float = 3.5
    detach_weights: bool = False
    interaction_weight: float = 0.5


@dataclass(frozen=True)
class TrainConfig:
    """Optimizer, schedule and run.

    Attributes:
        output: The run folder.
        epochs: Passes over the training pairs.
        seed: Seeds the initial weights, the sampler and the augmentation.
        learning_rate: Base rate, reached after the warm-up.
        final_learning_rate: What the cosine tends to.
        warmup_epochs: Epochs of linear warm-up; the rate changes once an epoch.
        warmup_factor: The first epoch's share of the base rate.
        bias_lr_factor: Multiplies the rate of every bias.
        weight_decay: L2 term added to the gradient, not applied to biases.
        bias_weight_decay: The same for biases.
        beta1: Adam's decay of the first moment.
        beta2: Adam's decay of the second moment.
        eps: Adam's epsilon, outside the bias-corrected root as in PyTorch.
        eval_every: Epochs between evaluations; the last epoch is always evaluated.
        log_every: Steps between lines of log.jsonl.
        resume: A run folder to go on with.
    """

    output: str = "runs/unireid"
    epochs: int = 60
    seed: int = 1
    learning_rate: float = 1e-5
    final_learning_rate: float = 0.0
    warmup_epochs: int = 5
    warmup_factor: float = 0.1
    bias_lr_factor: float = 2.0
    weight_decay: float = 4e-5
    bias_weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-3
    eval_every: int = 1
    log_every: int = 20
    resume: str | None = None


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation during and after training.

    Attributes:
        splits: Splits to report; null means val and test, as far as the data set has them.
        selection_split: Which split chooses the best checkpoints; `auto` is val where one exists, else test.
            The authors choose on test.
        selection_text_protocol: Which text R1 chooses `best_text` and enters the average;
            the authors take the full gallery.
        batch_size: Pictures or captions encoded at once.
    """

    splits: tuple[Literal["train", "val", "test"], ...] | None = None
    selection_split: Literal["auto", "train", "val", "test"] = "auto"
    selection_text_protocol: Literal["full_gallery", "exclude_source_photo"] = "full_gallery"
    batch_size: int = 64


@dataclass(frozen=True)
class RuntimeConfig:
    """Where and how the computation runs.

    Attributes:
        device: `auto` takes the best device MindSpore finds.
        device_id: Index of the Ascend or GPU device.
        graph_mode: Compile the training step and the encoders; false runs PyNative.
        workers: Threads that read and augment batches.
        prefetch: Batches kept ready.
    """

    device: Literal["auto", "Ascend", "GPU", "CPU"] = "auto"
    device_id: int = 0
    graph_mode: bool = True
    workers: int = 2
    prefetch: int = 4


@dataclass(frozen=True)
class Config:
    """The whole experiment; see the attributes' classes."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


def load_config(path: str | Path | None = None, overrides: typing.Sequence[str] = ()) -> Config:
    """Read a YAML file on top of its `base:` chain, apply overrides, check everything.

    Args:
        path: The YAML file; None starts from the defaults.
        overrides: `section.key=value` strings, values in YAML; they win over the file.

    Raises:
        ConfigError: Naming the file or the override, the key and the nearest valid one.
    """
    layers = [] if path is None else _read_chain(Path(path), ())
    return _build(layers, overrides)


def config_from_dict(values: dict[str, Any], source: str, overrides: typing.Sequence[str] = ()) -> Config:
    """Rebuild a config from `to_dict`'s form, for example the one kept in a checkpoint.

    Args:
        values: Nested dictionaries.
        source: What to call them in an error.
        overrides: As for `load_config`.

    Raises:
        ConfigError: As `load_config`.
    """
    return _build([(source, values)], overrides)


def _build(layers: list[tuple[str, dict]], overrides: typing.Sequence[str]) -> Config:
    layers = layers + [(f"override '{text}'", _parse_override(text)) for text in overrides]
    config = Config()
    for source, values in layers:
        config = _merge(config, values, source, "")
    # A combination may come of several layers: name the file and every override.
    sources = [source for source, _ in layers]
    _check(config, ", ".join(sources[-len(overrides) - 1 :]) if sources else "defaults")
    return config


def to_dict(config: Any) -> dict[str, Any]:
    """Turn a config (or one section) into plain dictionaries and lists, ready for YAML or JSON."""
    return yaml.safe_load(to_yaml(config))


def to_yaml(config: Any) -> str:
    """Write a config as YAML that `load_config` reads back to an equal one."""
    values = dataclasses.asdict(config, dict_factory=lambda kv: {k: _plain(v) for k, v in kv})
    return yaml.safe_dump(values, sort_keys=False)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _read_chain(path: Path, seen: tuple[Path, ...]) -> list[tuple[str, dict]]:
    if path.resolve() in seen:
        raise ConfigError(f"{path}: `base:` leads back to this file; break the circle")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read the config file ({error.strerror}); give an existing YAML file"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        detail = " ".join(str(error).split())
        raise ConfigError(f"{path}: is not valid YAML ({detail}); mend the syntax") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected `section:` keys at the top, found a {type(values).__name__}")
    base = values.pop("base", None)
    if base is not None and not isinstance(base, str):
        raise ConfigError(f"{path}: `base` must be one file name, found {base!r}")
    below = [] if base is None else _read_chain(path.parent / base, (*seen, path.resolve()))
    return [*below, (str(path), values)]


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"override '{text}': expected section.key=value, for example train.epochs=1")
    try:
        parsed: Any = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"override '{text}': the value is not valid YAML") from error
    for part in reversed(key.strip().split(".")):
        parsed = {part: parsed}
    return parsed


def _merge(section: Any, values: Any, source: str, prefix: str) -> Any:
    """Return `section` with `values` on top, every key and type checked."""
    if not isinstance(values, dict):
        name = prefix.rstrip(".") or "the file"
        raise ConfigError(f"{source}: {name} must hold keys, found {values!r}; write {prefix}key=value")
    hints = typing.get_type_hints(type(section))
    changed = {}
    for key, value in values.items():
        if key not in hints:
            raise ConfigError(f"{source}: unknown key '{prefix}{key}'{_suggest(str(key), hints, prefix)}")
        current = getattr(section, key)
        if dataclasses.is_dataclass(current):
            changed[key] = _merge(current, value, source, f"{prefix}{key}.")
        else:
            changed[key] = _convert(value, hints[key], source, f"{prefix}{key}")
    return dataclasses.replace(section, **changed)


def _suggest(key: str, valid: typing.Iterable[str], prefix: str = "") -> str:
    valid = list(valid)
    near = difflib.get_close_matches(key, valid, n=1, cutoff=0.0)
    return f"; did you mean '{prefix}{near[0]}'? Valid: {', '.join(valid)}" if near else f". Valid: {', '.join(valid)}"


def _convert(value: Any, hint: Any, source: str, key: str) -> Any:
    """Check a YAML value against a field's type and return it as that type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _convert(value, args[0], source, key)
    if origin is Literal:
        if value not in args:
            near = _suggest(str(value), [str(a) for a in args])
            raise ConfigError(f"{source}: '{key}' cannot be {value!r}{near}")
        return value
    if origin is tuple:
        length = None if args[-1] is Ellipsis else len(args)
        if not isinstance(value, (list, tuple)) or (length is not None and len(value) != length):
            raise ConfigError(
                f"{source}: '{key}' must be a list{f' of {length} values' if length else ''}, found {value!r}"
            )
        return tuple(_convert(item, args[0], source, key) for item in value)
    return _scalar(value, hint, source, key)


def _scalar(value: Any, kind: type, source: str, key: str) -> Any:
    if kind is float and not isinstance(value, bool):
        try:
            # YAML 1.1 reads 1e-5 as a string: it wants 1.0e-5.
            return float(value)
        except (TypeError, ValueError):
            pass
    elif isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    names = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
    raise ConfigError(f"{source}: '{key}' must be {names[kind]}, found {value!r}")


def _check(config: Config, source: str) -> None:
    """Refuse combinations that cannot work, before anything is loaded."""
    model, data, objective, train = config.model, config.data, config.objective, config.train
    if model.architecture not in ARCHITECTURES:
        raise ConfigError(
            f"{source}: unknown model.architecture '{model.architecture}'{_suggest(model.architecture, ARCHITECTURES)}"
        )
    patch = ARCHITECTURES[model.architecture].patch_size
    stride = patch if model.stride is None else model.stride
    tasks = objective.tasks
    both = {"text", "sketch"} <= set(tasks)
    pairs_ok = data.sampler != "identity" or (data.instances > 0 and data.batch_size % data.instances == 0)
    rules = [
        (min(model.image_size) >= patch, "model.image_size", f"must be at least the patch size {patch} on both sides"),
        (0 < stride <= patch, "model.stride", f"must be between 1 and the patch size {patch}"),
        (3 <= model.context_length <= 77, "model.context_length", "must be between 3 and 77 tokens"),
        (model.temperature > 0, "model.temperature", "must be positive"),
        (tasks and len(set(tasks)) == len(tasks), "objective.tasks", "must name at least one task, each once"),
        (
            both or not objective.dynamic,
            "objective.dynamic",
            "weighs text against sketch: put both into objective.tasks or set it to false",
        ),
        (objective.interaction_weight >= 0, "objective.interaction_weight", "must not be negative"),
        (
            both or not objective.interaction_weight,
            "objective.interaction_weight",
            "aligns sketch with text: put both into objective.tasks or set it to 0",
        ),
        (data.batch_size >= 2, "data.batch_size", "must be at least 2: the loss contrasts pairs within a batch"),
        (pairs_ok, "data.instances", "must divide data.batch_size"),
        (0 <= data.augment.flip <= 1, "data.augment.flip", "must be between 0 and 1"),
        (0 <= data.augment.erase <= 1, "data.augment.erase", "must be between 0 and 1"),
        (data.augment.pad >= 0, "data.augment.pad", "must not be negative"),
        (
            not (data.augment.share_geometry and data.augment.pad),
            "data.augment.pad",
            "must be 0 with data.augment.share_geometry: a common border would give the pair away",
        ),
        (train.epochs >= 1, "train.epochs", "must be at least 1"),
        (train.seed >= 0, "train.seed", "must not be negative"),
        (train.warmup_epochs >= 0, "train.warmup_epochs", "must not be negative"),
        (train.learning_rate > 0, "train.learning_rate", "must be positive"),
        (train.eval_every >= 1, "train.eval_every", "must be at least 1"),
        (train.log_every >= 1, "train.log_every", "must be at least 1"),
        (0 <= train.beta1 < 1 and 0 <= train.beta2 < 1, "train.beta1 and train.beta2", "must lie in [0, 1)"),
        (train.eps > 0, "train.eps", "must be positive"),
        (config.eval.batch_size >= 1, "eval.batch_size", "must be at least 1"),
        (config.runtime.workers >= 1, "runtime.workers", "must be at least 1"),
        (config.runtime.prefetch >= 1, "runtime.prefetch", "must be at least 1"),
    ]
    for holds, key, rule in rules:
        if not holds:
            raise ConfigError(f"{source}: {key} {rule}")
