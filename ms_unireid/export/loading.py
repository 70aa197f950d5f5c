"""A checkpoint as a float32 model on the CPU, wherever it was trained: what is exported, and what files are held to."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ms_unireid.config import Config, config_from_dict
from ms_unireid.models.unireid import UNIReID, build_model
from ms_unireid.runtime import prepare
from ms_unireid.training.checkpoint import Checkpoint, fill, read_checkpoint

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
