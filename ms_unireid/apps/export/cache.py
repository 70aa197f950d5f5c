"""The model that OpenVINO or onnxruntime runs: exported once, kept in the user's cache, checked on photos."""

import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ms_unireid import __version__
from ms_unireid.checkpoints.checkpoint import read_checkpoint
from ms_unireid.checkpoints.formats.any_file import checkpoint_digest
from ms_unireid.checkpoints.thresholds import model_facts
from ms_unireid.config import Config
from ms_unireid.data.tokenizer import Tokenizer
from ms_unireid.data.transforms import load_pixels
from ms_unireid.errors import DataError, UserError
from ms_unireid.evaluation.exported_model import ExportedModel
from ms_unireid.evaluation.similarity import normalize_rows
from ms_unireid.files import cache_folder, locked, read_json, sha256

CHECKED = 8  # photos
_CAPTIONS = ("A man with short black hair wears a red coat, blue jeans and white shoes.", "a woman")
# The least cosine of a photo's features with MindSpore's in float32.
LEAST_COSINE = {"fp32": 0.9999, "bf16": 0.9999, "int8": 0.99}
_FORM = {"checkpoint": {"sha256": str, str: object}, "files": {str: {"sha256": str, str: object}}, str: object}


def open_exported_model(checkpoint: Path, config: Config) -> ExportedModel:
    """Open the model for `runtime.encoder`; it is exported first if the cache has no whole one.

    Raises:
        EnvironmentProblem: If a package is missing, or the processor has not the precision.
        UserError: If the cache cannot be written, or the checkpoint cannot be used.
    """
    encoder, precision = config.runtime.encoder, config.runtime.precision
    model = ExportedModel(Path(), checkpoint, encoder, precision, config.model.context_length)
    written, digest = "int8" if precision == "int8" else "float32", checkpoint_digest(checkpoint)
    made = json.dumps([model_facts(config), written, __version__], sort_keys=True)
    made = f"{digest[:16]}-{hashlib.sha256(made.encode()).hexdigest()[:8]}"
    model.folder = cache_folder() / "exported" / made
    if not _is_whole(model.folder, digest):
        waiting = f"waiting for another process that exports {checkpoint}"
        with locked(model.folder.with_suffix(".lock"), waiting):
            if not _is_whole(model.folder, digest):
                _export(checkpoint, config, written, model.folder)
    return model


def open_checked_model(checkpoint: Path, config: Config, photos: Sequence[Path]) -> ExportedModel:
    """Open the model as `open_exported_model`, and check it on photos as `check_on_photos`; errors as there."""
    model = open_exported_model(checkpoint, config)
    check_on_photos(model, config, photos)
    return model


def check_on_photos(model: ExportedModel, config: Config, photos: Sequence[Path]) -> float | None:
    """Compare features of the first photos, and of two captions, with MindSpore's in float32; return the least cosine.

    None if no photo can be read. UserError if it is below `LEAST_COSINE`.
    """
    pixels = []
    for path in photos[:CHECKED]:
        try:
            pixels.append(load_pixels(path, config.model.image_size).transpose(2, 0, 1))
        except DataError:  # it is told where it is encoded
            continue
    if not pixels:
        return None
    from ms_unireid.evaluation.encoder import Encoder

    pictures, plain = np.stack(pixels), plain_config(config)
    encoder, captions = Encoder(read_checkpoint(model.checkpoint).build(plain), plain), list(_CAPTIONS)
    found = {str(photos[0]): (model.images(pictures), encoder.pixels(pictures))}
    found[captions[0]] = model.captions(Tokenizer.of(config.model)(captions)), encoder.captions(captions)
    cosines = {}
    for name, (ours, expected) in found.items():
        cosines[name] = least = float((normalize_rows(ours) * normalize_rows(expected)).sum(1).min())
        if not least >= LEAST_COSINE[model.precision]:
            raise UserError(
                f"{name}: features of {model.encoder} {model.precision} have a cosine of {least:.5f} with MindSpore's "
                f"in float32, less than {LEAST_COSINE[model.precision]}; give --precision fp32, or --encoder mindspore"
            )
    return min(cosines.values())


def plain_config(config: Config) -> Config:
    """Return the config with MindSpore on the CPU, uncompiled and in float32."""
    how = {"encoder": "mindspore", "precision": "fp32", "device": "CPU", "graph_mode": False}
    return replace(config, runtime=replace(config.runtime, **how))


def _is_whole(folder: Path, digest: str) -> bool:
    """Whether an export is there and undamaged; damage is told."""
    from ms_unireid.apps.export.specification import FILE_NAME

    if not folder.exists():
        return False
    try:
        about = read_json(folder / FILE_NAME, _FORM, "it is made again")
        files = {name: file["sha256"] for name, file in about["files"].items()}
        wanted = {"image_encoder.onnx", "text_encoder.onnx"}
        same = about["checkpoint"]["sha256"] == digest and wanted <= files.keys()
        if same and all(sha256((folder / name).open("rb")) == files[name] for name in wanted):
            return True
    except (UserError, OSError):
        pass
    print(f"note: {folder}: is damaged; the model is exported again", file=sys.stderr)
    return False


def _export(checkpoint: Path, config: Config, written: str, folder: Path) -> None:
    from ms_unireid.apps.export.exporting import export_checkpoint
    from ms_unireid.apps.export.specification import ExportOptions

    shutil.rmtree(folder, ignore_errors=True)
    print(f"note: {checkpoint}: is exported, once, into {folder}", file=sys.stderr)
    facts = model_facts(config)
    long_captions = facts.pop("long_captions", "cut")
    overrides = [f"model.{key}={json.dumps(value)}" for key, value in facts.items()]
    options = ExportOptions(("onnx",), written, redo=True)
    export_checkpoint(checkpoint, folder, options, overrides=[*overrides, f"data.long_captions={long_captions}"])
