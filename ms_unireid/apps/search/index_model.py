"""The model that made an index: its config, its checkpoint and the encoder that takes its place."""

from pathlib import Path

from ms_unireid.apps.search.engines.store import PhotoStore
from ms_unireid.apps.search.manifest import encoder_overrides, model_settings
from ms_unireid.checkpoints.formats.any_file import checkpoint_digest
from ms_unireid.config import Config, config_from_dict
from ms_unireid.errors import CheckpointError, DataError
from ms_unireid.evaluation.exported_model import has_bfloat16
from ms_unireid.installation import job_command


def config_of(index: PhotoStore) -> Config:
    """Return the config of the model that made an index, which must have photos."""
    if not index.count:
        raise DataError(
            f"{index.place}: has no photos ({index.unreadable} skipped, {index.about['left']} left to read); "
            f"add some with {job_command('search')} index --output {index.place} --photos DIR"
        )
    config = config_from_dict(model_settings(index.about), index.place)
    if config.model.sizes.embed_dim != index.dim:
        raise DataError(
            f"{index.place}: has features of length {index.dim}, but its model makes {config.model.sizes.embed_dim}; "
            "make the index anew"
        )
    return config


def encoder_of(index: PhotoStore) -> list[str]:
    """Return the overrides of the exported encoder that made an index; MindSpore's precision is the device's own."""
    overrides = encoder_overrides(index.about)
    if "runtime.encoder=mindspore" in overrides:
        return []
    if "runtime.precision=bf16" in overrides and not has_bfloat16():
        # Another processor made the index; the features differ by no more than `LEAST_COSINE` allows.
        return ["runtime.encoder=openvino", "runtime.precision=fp32"]
    return overrides


def find_checkpoint(index: PhotoStore, given: str | Path | None) -> Path:
    """Return the checkpoint that made an index, checked by its digest."""
    path, made_by = index.checkpoint(given), index.about["checkpoint"]
    if checkpoint_digest(path) != made_by["sha256"]:
        raise CheckpointError(
            f"{path}: is not the checkpoint that made {index.place} (sha256 {made_by['sha256'][:12]}...); "
            "give that one, or make another index with this one"
        )
    return path
