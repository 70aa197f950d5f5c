"""Checkpoints of training and evaluation: from a file to a model or its weights, and from parameters to a file."""

import glob
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ms_unireid.checkpoints.clip_names import LOGIT_SCALE, TEXT_POSITIONS, VISUAL_POSITIONS, our_shapes
from ms_unireid.checkpoints.fitting import NAMED_TENSORS, fit, float32_entries
from ms_unireid.checkpoints.formats.any_file import read_tensor_file
from ms_unireid.checkpoints.formats.dtypes import aligned
from ms_unireid.checkpoints.formats.mindspore_file import write_mindspore
from ms_unireid.checkpoints.formats.tensor_file import META, Entry, check_finite
from ms_unireid.checkpoints.recognition import Source, open_source
from ms_unireid.config import Config, ModelConfig
from ms_unireid.config_schema import CONTEXT_LENGTH
from ms_unireid.data.findings import listed
from ms_unireid.errors import CheckpointError, escaped
from ms_unireid.files import replacing
from ms_unireid.models.positions import model_grid
from ms_unireid.runtime import prepare

if TYPE_CHECKING:  # MindSpore is imported by what builds or fills a model: a file that cannot be used is refused before
    from mindspore import Parameter, nn

    from ms_unireid.models.unireid import UNIReID

OPTIMIZER_PREFIXES = ("exp_avg", "beta1_power", "beta2_power", "average.")


@dataclass(frozen=True)
class Checkpoint:
    """A file read into memory."""

    path: Path
    tensors: dict[str, np.ndarray]  # by name; optimizer moments as well where the file is a training state
    meta: dict[str, Any]  # `config` (nested dictionaries), `epoch` and whatever else was saved with it
    source: Source  # the file as it was recognised; without a description, as CLIP's, `meta` is of defaults

    def config(self, overrides: Sequence[str] = (), files: Sequence[Path] | None = None) -> Config:
        """Return the saved config, or that of YAML files instead, with `section.key=value` strings on top.

        The precision is float32 unless an override says otherwise, whatever the model was trained with. A wrong file or
        override raises a ConfigError.
        """
        return self.source.config(overrides, files)

    def build(self, config: Config) -> "UNIReID":
        """Select the device and build the model with these weights.

        The position tables of a file that ms_unireid did not write are resized to the config's picture size, and
        stretched to a context length above CLIP's. Wrong packages or devices raise an EnvironmentProblem, weights that
        do not fit the model a CheckpointError.
        """
        self.source.check_tokenizer()
        patches = math.prod(model_grid(config.model))
        stretches = len(self.tensors.get(TEXT_POSITIONS, ())) != config.model.context_length > CONTEXT_LENGTH
        if not self.source.meta and (len(self.tensors[VISUAL_POSITIONS]) != 1 + patches or stretches):
            model = _build(config)
            load_pretrained(model, self.path, replace(config.model, pretrained_logit_scale=True))
            return model
        wanted = our_shapes(config.model.sizes, config.model.context_length, patches)
        del wanted[LOGIT_SCALE]
        _check_shapes(wanted, self.tensors, str(self.path), _fix(self))
        model = _build(config)
        fill(model.get_parameters(), self)
        return model


class OpenedModel(NamedTuple):
    """A model with its weights, its config, and the file's `meta` as in `Checkpoint`."""

    model: "UNIReID"
    config: Config
    meta: dict[str, Any]


def open_model(path: str | Path, overrides: Sequence[str] = (), files: Sequence[Path] | None = None) -> OpenedModel:
    """Open a file as a model that is ready to encode.

    The file is a checkpoint of ms_unireid, or any other that holds a whole model. `overrides` are `section.key=value`
    strings on top of the config, such as `runtime.device=CPU`; `files` are YAML files in place of the config that the
    checkpoint holds. Whatever is wrong with file, config, packages or device raises a UserError.
    """
    checkpoint = read_checkpoint(path)
    config = checkpoint.config(overrides, files)
    return OpenedModel(checkpoint.build(config), config, checkpoint.meta)


def save_checkpoint(path: Path, params: Iterable["Parameter"], meta: dict[str, Any]) -> None:
    """Write parameters and a JSON description into one MindSpore checkpoint; UserError if it cannot be written."""
    with replacing(Path(path)) as temporary:
        write_mindspore(temporary, (Entry.of(p.name, p.asnumpy()) for p in params), {META: json.dumps(meta)})


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of ms_unireid, or any file that `open_source` recognises, without resizing a tensor.

    A file that is missing, damaged or no checkpoint raises a CheckpointError.
    """
    file = read_tensor_file(Path(path))
    source = open_source(file)
    entries = float32_entries(source, ModelConfig.temperature)
    tensors = {name: entry.load() for name, entry in entries.items()}
    kept = {name: file.tensors[name] for name, what in source.surplus.items() if source.meta or what == "tower"}
    check_finite(file.path, ((name, array) for name, array in kept.items() if array.dtype.kind == "f"))
    return Checkpoint(file.path, tensors | kept, source.description, source)


def load_checkpoint(model: "nn.Cell", path: str | Path) -> dict[str, Any]:
    """Load a checkpoint's weights into a model and return the file's `meta`.

    An unreadable file, and a tensor that is missing, unexpected or of another shape, raise a CheckpointError.
    """
    checkpoint = read_checkpoint(path)
    fill(model.get_parameters(), checkpoint)
    return checkpoint.meta


def load_weights(model: "nn.Cell", arrays: Mapping[str, np.ndarray]) -> None:
    """Load weights from memory: each parameter's name to an array of its shape; all are set or none.

    An array that is missing, unexpected or of another shape raises a CheckpointError.
    """
    _fill(model.get_parameters(), {name: np.asarray(array) for name, array in arrays.items()}, "weights")


def load_pretrained(model: "nn.Cell", path: str | Path, config: ModelConfig) -> None:
    """Start a model from any file of weights; its position tables are resized as by `fit`.

    The model keeps its own logit scale unless `config.pretrained_logit_scale`; half precision is cast up. A file that
    cannot be read, does not fill the model or has another activation raises a CheckpointError.
    """
    source = open_source(path, architecture=config.architecture)
    if source.activation not in (None, config.activation):
        raise CheckpointError(
            f"{path}: holds a model with {source.activation}; set model.activation={source.activation}"
        )
    source.check_tokenizer()
    entries, _ = fit(source, config, list(map(glob.escape, source.meta.get("source", {}).get("missing", ()))))
    params = {p.name: p for p in model.get_parameters()}
    for name, entry in entries.items():
        if name != LOGIT_SCALE or config.pretrained_logit_scale:
            _set(params[name], entry.load())


def fill(params: Iterable["Parameter"], checkpoint: Checkpoint) -> None:
    """Copy a checkpoint's tensors into parameters of the same names; a CheckpointError leaves all as they are."""
    _fill(params, checkpoint.tensors, str(checkpoint.path), _fix(checkpoint))


def _fix(checkpoint: Checkpoint) -> str:
    model = checkpoint.meta.get("config", {}).get("model", {})
    made = f"{model.get('architecture')} at image size {model.get('image_size')}, stride {model.get('stride')}"
    return f"The checkpoint holds {made}; use the config it was trained with (config.yaml in its run folder)"


def _fill(params: Iterable["Parameter"], found: Mapping[str, np.ndarray], source: str, fix: str = "") -> None:
    params = list(params)
    _check_shapes({p.name: tuple(p.shape) for p in params}, found, source, fix)
    for param in params:
        _set(param, found[param.name])


def _set(param: "Parameter", values: np.ndarray) -> None:
    from mindspore import Tensor

    param.set_data(Tensor(aligned(values), param.dtype))


def _build(config: Config) -> "UNIReID":
    """Select the device, and build a model whose weights are to be filled in."""
    prepare(config.runtime)
    from ms_unireid.models.unireid import build_model

    return build_model(config.model, None, config.runtime)


def _check_shapes(
    wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, np.ndarray], source: str, fix: str
) -> None:
    problems = {
        "missing": [name for name in wanted if name not in found],
        "of another shape": [
            f"{name} is {found[name].shape}, the model needs {shape}"
            for name, shape in wanted.items()
            if name in found and found[name].shape != shape
        ],
        "unexpected": [
            escaped(name)
            for name in found
            if name not in wanted and name != LOGIT_SCALE and not name.startswith(OPTIMIZER_PREFIXES)
        ],
    }
    lists = [f"{len(some)} {what} ({listed(some, NAMED_TENSORS, '; ')})" for what, some in problems.items() if some]
    if lists:
        raise CheckpointError(f"{source}: does not fit the model: {', '.join(lists)}. {fix}".rstrip())
