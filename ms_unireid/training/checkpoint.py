"""Checkpoint files: weights under the authors' names, plus what they are and how far training was."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from ms_unireid.architectures import ARCHITECTURES
from ms_unireid.config import ModelConfig
from ms_unireid.errors import CheckpointError
from ms_unireid.files import replacing
from ms_unireid.models.positions import patch_grid, resize_positions

VISUAL_POSITIONS = "base_model.visual.positional_embedding"
OPTIMIZER_PREFIXES = ("exp_avg", "beta1_power", "beta2_power")
NAMED_TENSORS = 4
_META = "ms_unireid"


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
    tensors = [{"name": p.name, "data": p} for p in params]
    with replacing(Path(path)) as temporary:
        try:
            ms.save_checkpoint(tensors, str(temporary), append_dict={_META: json.dumps(meta)})
        finally:
            temporary.with_suffix(".tmp").unlink(missing_ok=True)  # MindSpore's, left where the disk is full
        temporary.chmod(0o644)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of ours.

    Raises:
        CheckpointError: If the file is missing, damaged or not a checkpoint of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected a checkpoint such as RUN/best_average.ckpt")
    if path.suffix != ".ckpt":
        raise CheckpointError(f"{path}: expected a MindSpore checkpoint of ms_unireid (.ckpt)")
    try:
        content = ms.load_checkpoint(str(path))
        meta = json.loads(content.pop(_META))
    except KeyError as error:
        raise CheckpointError(
            f"{path}: is a MindSpore checkpoint, but not a whole one of ms_unireid; copy it again or take another"
        ) from error
    except (ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path}: is damaged or not a checkpoint; copy it again or take another one") from error
    return Checkpoint(path, {name: value.asnumpy() for name, value in content.items()}, meta)


def load_checkpoint(model: nn.Cell, path: str | Path) -> dict[str, Any]:
    """Load a checkpoint's weights into a model and return the file's description.

    Raises:
        CheckpointError: If the file cannot be read, or lacks, adds or mis-shapes a tensor of the model.
    """
    checkpoint = read_checkpoint(path)
    fill(model.get_parameters(), checkpoint)
    return checkpoint.meta


def load_pretrained(model: nn.Cell, path: str | Path, config: ModelConfig) -> None:
    """Start a model from a checkpoint: its own logit scale stays, position tables are resized to its image size.

    Raises:
        CheckpointError: As `load_checkpoint`.
    """
    checkpoint = read_checkpoint(path)
    source = checkpoint.meta["config"]["model"]
    source_grid = patch_grid(tuple(source["image_size"]), *_patch_and_stride(source["architecture"], source["stride"]))
    target_grid = patch_grid(config.image_size, *_patch_and_stride(config.architecture, config.stride))
    tensors = dict(checkpoint.tensors)
    tensors[VISUAL_POSITIONS] = resize_positions(tensors[VISUAL_POSITIONS], target_grid, source_grid)
    params = [p for p in model.get_parameters() if p.name != "logit_scale"]
    fill(params, Checkpoint(checkpoint.path, tensors, checkpoint.meta))


def fill(params: Iterable[Parameter], checkpoint: Checkpoint) -> None:
    """Copy a checkpoint's tensors into parameters of the same names, all or none.

    A training state's moments are passed over where they are not asked for; any other surplus tensor is an error.

    Raises:
        CheckpointError: Listing what is missing, mis-shaped or unexpected.
    """
    params = list(params)
    names = {"logit_scale", *(p.name for p in params)}
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
        param.set_data(Tensor(found[param.name], param.dtype))


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


def _patch_and_stride(architecture: str, stride: int | None) -> tuple[int, int]:
    patch = ARCHITECTURES[architecture].patch_size
    return patch, patch if stride is None else stride
