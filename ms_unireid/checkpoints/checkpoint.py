"""Checkpoints of training and evaluation: our parameters to a file, and any file's tensors to our parameters."""

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor, nn

from ms_unireid.checkpoints.clip_names import LOGIT_SCALE, our_name
from ms_unireid.checkpoints.fitting import NAMED_TENSORS, fit, float32_entries
from ms_unireid.checkpoints.formats.dtypes import aligned
from ms_unireid.checkpoints.formats.mindspore_file import write_mindspore
from ms_unireid.checkpoints.formats.tensor_file import Entry
from ms_unireid.checkpoints.recognition import META, OURS, open_source
from ms_unireid.config import Config, ModelConfig, config_from_dict, to_dict
from ms_unireid.errors import CheckpointError
from ms_unireid.files import replacing, sha256
from ms_unireid.models.unireid import UNIReID, build_model
from ms_unireid.runtime import prepare

OPTIMIZER_PREFIXES = ("exp_avg", "beta1_power", "beta2_power", "average.")


@dataclass(frozen=True)
class Checkpoint:
    """A file read into memory.

    Attributes:
        path: Where it was read.
        tensors: Name to array; optimizer moments as well where the file is a training state.
        meta: `config` (nested dictionaries), `epoch` and whatever else was saved with it.
    """

    path: Path
    tensors: dict[str, np.ndarray]
    meta: dict[str, Any]


def save_checkpoint(path: Path, params: Iterable[Parameter], meta: dict[str, Any]) -> None:
    """Write parameters and a JSON description into one MindSpore checkpoint; whole or not at all.

    Raises:
        UserError: If the file cannot be written.
    """
    with replacing(Path(path)) as temporary:
        write_mindspore(temporary, (Entry.of(p.name, p.asnumpy()) for p in params), {META: json.dumps(meta)})


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Open a checkpoint of ours, or any file that `open_source` recognises as a model of its own sizes.

    Raises:
        CheckpointError: If the file is missing, damaged or something else.
    """
    source = open_source(path)
    entries = float32_entries(source, ModelConfig.temperature)
    tensors = {our_name(name): entry.load() for name, entry in entries.items()}
    kept = {name for name, what in source.surplus.items() if source.kind == OURS or what == "tower"}
    meta = source.meta or {"config": to_dict(Config(model=source.model))}
    return Checkpoint(source.file.path, tensors | {name: source.file.tensors[name] for name in kept}, meta)


def checkpoint_digest(checkpoint: Path) -> str:
    """Return the SHA-256 of a checkpoint; of a folder, that of its files' digests."""
    if not checkpoint.is_dir():
        return sha256(checkpoint.open("rb"))
    digests = [f"{sha256(file.open('rb'))} {file.name}\n" for file in sorted(checkpoint.iterdir()) if file.is_file()]
    return sha256(io.BytesIO("".join(digests).encode()))


def load_checkpoint(model: nn.Cell, path: str | Path) -> dict[str, Any]:
    """Load a checkpoint's weights into a model and return the file's description.

    Raises:
        CheckpointError: If the file cannot be read, or lacks, adds or mis-shapes a tensor of the model.
    """
    checkpoint = read_checkpoint(path)
    fill(model.get_parameters(), checkpoint)
    return checkpoint.meta


def load_pretrained(model: nn.Cell, path: str | Path, config: ModelConfig) -> None:
    """Start a model from any file of weights; its position table is resized to the model's picture size.

    The model keeps its own logit scale unless `config.pretrained_logit_scale`; half precision is cast up.

    Raises:
        CheckpointError: If the file cannot be read, does not fill the model, or is of another activation.
    """
    source = open_source(path)
    if source.activation not in (None, config.activation):
        raise CheckpointError(
            f"{path}: is of a model with {source.activation}; set model.activation={source.activation}"
        )
    entries, _ = fit(source, config, source.meta.get("source", {}).get("missing", ()))
    params = {p.name: p for p in model.get_parameters()}
    for name, entry in entries.items():
        if name != LOGIT_SCALE or config.pretrained_logit_scale:
            param = params[our_name(name)]
            param.set_data(Tensor(aligned(entry.load()), param.dtype))


def fill(params: Iterable[Parameter], checkpoint: Checkpoint) -> None:
    """Copy a checkpoint's tensors into parameters of the same names, all or none.

    A training state's moments are passed over where they are not asked for; any other surplus tensor is an error.

    Raises:
        CheckpointError: Listing what is missing, mis-shaped or unexpected.
    """
    params = list(params)
    names = {LOGIT_SCALE, *(p.name for p in params)}
    found = checkpoint.tensors
    missing = [p.name for p in params if p.name not in found]
    wrong = [
        f"{p.name} is {found[p.name].shape}, the model wants {p.shape}"
        for p in params
        if p.name in found and found[p.name].shape != tuple(p.shape)
    ]
    surplus = [n for n in found if n not in names and not n.startswith(OPTIMIZER_PREFIXES)]
    problems = {"missing": missing, "of another shape": wrong, "unexpected": surplus}
    if any(problems.values()):
        raise CheckpointError(_misfit(checkpoint, problems))
    for param in params:
        param.set_data(Tensor(aligned(found[param.name]), param.dtype))


def _misfit(checkpoint: Checkpoint, problems: dict[str, list[str]]) -> str:
    model = checkpoint.meta.get("config", {}).get("model", {})
    made = f"{model.get('architecture')} at image size {model.get('image_size')}, stride {model.get('stride')}"
    lists = []
    for what, names in problems.items():
        if names:
            more = f" and {len(names) - NAMED_TENSORS} more" if len(names) > NAMED_TENSORS else ""
            lists.append(f"{len(names)} {what} ({'; '.join(names[:NAMED_TENSORS])}{more})")
    return (
        f"{checkpoint.path}: does not fit the model: {', '.join(lists)}. The checkpoint is of {made}; "
        "use the config it was trained with (config.yaml in its run folder)"
    )


_OVERRIDES = ("runtime.device=CPU", "runtime.precision=fp32", "runtime.graph_mode=true")


@dataclass(frozen=True)
class LoadedModel:
    """A model with its weights.

    Attributes:
        checkpoint: Where they are from.
        config: The checkpoint's, for float32 on the CPU.
        model: The model.
    """

    checkpoint: Checkpoint
    config: Config
    model: UNIReID


def load_model(path: Path, overrides: Sequence[str] = ()) -> LoadedModel:
    """Build the model of a checkpoint and load its weights.

    Args:
        path: A checkpoint of ours, or any other file that holds a whole model.
        overrides: `section.key=value` strings on top of the checkpoint's config.

    Raises:
        UserError: If checkpoint, overrides or packages are wrong.
    """
    checkpoint = read_checkpoint(path)
    config = config_from_dict(checkpoint.meta["config"], str(path), [*overrides, *_OVERRIDES])
    prepare(config.runtime)
    model = build_model(config.model)
    fill(model.get_parameters(), checkpoint)
    return LoadedModel(checkpoint, config, model)
