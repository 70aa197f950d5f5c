"""A checkpoint to a folder of exported files and their description: whole, and compared with it, or not at all."""

import importlib.util
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mindspore as ms

from ms_unireid.apps.export import onnx_files, specification, verification
from ms_unireid.apps.export.parts import Part, make_parts, open_inputs
from ms_unireid.apps.export.samples import find_samples
from ms_unireid.apps.export.specification import ExportOptions
from ms_unireid.checkpoints.checkpoint import OpenedModel, checkpoint_digest, open_model
from ms_unireid.data.pictures import load_picture
from ms_unireid.data.tokenizer import VOCABULARY
from ms_unireid.errors import ConfigError, ExportError, UserError
from ms_unireid.files import replacing_folder, sha256, write_json
from ms_unireid.models.positions import model_grid

_READABLE = 0o644
# What is exported and what files are compared with: plain operations in float32, on the CPU.
_AS_EXPORTED = (
    "runtime.device=CPU",
    "runtime.precision=fp32",
    "runtime.fused_ops=plain",
    "runtime.graph_mode=true",
)


def export_checkpoint(
    path: Path,
    output: Path,
    options: ExportOptions,
    pictures: Sequence[Path] = (),
    overrides: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Export a checkpoint and compare every file with it.

    Args:
        path: A checkpoint of ours, or any other file that holds a whole model.
        output: The folder to make.
        options: What to write.
        pictures: Picture files to compare on; else those of the checkpoint's data set, or drawn persons.
        overrides: `section.key=value` strings on top of the checkpoint's config.
        progress: Called with (steps done, steps in all): each file written, each format compared.

    Returns:
        The description, as it is in the folder.

    Raises:
        ExportError: If a file cannot be written, or does not give what the checkpoint gives; nothing is left then.
        UserError: If checkpoint, pictures, packages or folder are wrong.
    """
    _check(output, options)
    for picture in pictures:
        load_picture(picture)
    opened = open_model(path, [*overrides, *_AS_EXPORTED])
    samples = find_samples(opened.config, pictures)
    parts = make_parts(opened.model, samples, options.normalized)
    with replacing_folder(output) as folder:
        files = _write_all(folder, parts, opened, options, progress)
        shutil.copyfile(VOCABULARY, folder / VOCABULARY.name)
        description = _describe(path, opened, parts, options, samples.source, files)
        write_json(folder / specification.FILE_NAME, description)
    return description


def _check(output: Path, options: ExportOptions) -> None:
    """Refuse what cannot be done before anything is read."""
    if options.precision == "int8" and options.formats != ("onnx",):
        raise ConfigError("--precision int8 is for ONNX files alone; give --formats onnx")
    if "onnx" in options.formats:
        onnx_files.need_onnx()
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / specification.FILE_NAME).is_file():
        raise UserError(f"{output}: exists and is no export of ours; choose another folder or move it away")
    if not options.redo:
        raise UserError(f"{output}: holds an export; choose another folder, or replace it with --redo")


def _write_all(
    folder: Path,
    parts: Sequence[Part],
    opened: OpenedModel,
    options: ExportOptions,
    progress: Callable[[int, int], None] | None,
) -> dict[str, dict[str, Any]]:
    """Write and compare every file; return what there is to say of each."""
    jobs = [(kind, part) for kind in options.formats for part in parts]
    batch, steps = onnx_files.marker_batch_size(_sizes(opened)), len(jobs) + len(options.formats)
    for done, (kind, part) in enumerate(jobs, 1):
        _write(folder / f"{part.name}.{kind}", part, batch, _precision(part, options))
        if progress:
            progress(done, steps)
    files = {}
    for done, kind in enumerate(options.formats, len(jobs) + 1):
        files |= _compare_all(folder, kind, parts, options)
        if progress:
            progress(done, steps)
    return files


def _sizes(opened: OpenedModel) -> set[int]:
    """List every length that an axis of the model's tensors can have, or that is a factor of one."""
    config = opened.config.model
    return {size for p in opened.model.get_parameters() for size in p.shape} | {*config.image_size, *model_grid(config)}


def _precision(part: Part, options: ExportOptions) -> str:
    """Return the precision of one network: fusion has no weights that could be rounded."""
    return "float32" if part.name == "fusion" else options.precision


def _compare_all(folder: Path, kind: str, parts: Sequence[Part], options: ExportOptions) -> dict[str, dict[str, Any]]:
    """Compare the files of one format; return what there is to say of each."""
    files = {folder / f"{part.name}.{kind}": part for part in parts}
    found = verification.run_in_fresh_process(list(files), {part.name: part.inputs for part in parts})
    told = {}
    for file, part in files.items():
        agreement, precision = verification.compare(file, found[file], part.expected), _precision(part, options)
        verification.check(file, agreement, precision)
        opset = {"opset": onnx_files.opset(file)} if kind == "onnx" else {}
        about = {"sha256": sha256(file.open("rb")), "bytes": file.stat().st_size, "precision": precision}
        told[file.name] = about | opset | asdict(agreement)
    return told


def _write(file: Path, part: Part, batch: int, precision: str) -> None:
    folder_mode = file.parent.stat().st_mode
    try:
        if file.suffix == ".mindir":
            _write_mindir(file, part)
        else:
            _write_onnx(file, part, batch, precision)
    except (RuntimeError, TypeError, ValueError) as error:  # whatever MindSpore's exporters end with
        reason = " ".join(str(error).split())[:200]
        raise ExportError(f"{file.name}: cannot be written ({type(error).__name__}: {reason})") from error
    # MindSpore closes file and folder to all others, and the file to writing.
    file.chmod(_READABLE)
    file.parent.chmod(folder_mode)


def _write_mindir(file: Path, part: Part) -> None:
    ms.export(part.cell, *open_inputs(part, None), file_name=str(file), file_format="MINDIR")


def _write_onnx(file: Path, part: Part, batch: int, precision: str) -> None:
    inputs = open_inputs(part, batch)
    if importlib.util.find_spec("mindspore.onnx"):  # from 2.7.1 on, where the other way is announced to go
        importlib.import_module("mindspore.onnx").export(part.cell, *inputs, file_name=str(file))
    else:
        ms.export(part.cell, *inputs, file_name=str(file), file_format="ONNX")
    file.chmod(_READABLE)  # it is written anew
    onnx_files.open_batch(file, batch, list(part.inputs), part.outputs)
    if precision == "int8":
        exact = file.with_suffix(".float32.onnx")
        os.replace(file, exact)
        onnx_files.quantize(exact, file)
        exact.unlink()


def _describe(
    path: Path,
    opened: OpenedModel,
    parts: Sequence[Part],
    options: ExportOptions,
    source: str,
    files: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    model = specification.describe_model(opened.config.model)
    outputs = {part.name: part.outputs for part in parts}
    return {
        "format_version": specification.FORMAT_VERSION,
        "model": model,
        "checkpoint": {
            "file": path.name,
            "sha256": checkpoint_digest(path),
            "epoch": opened.meta.get("epoch"),
        },
        "inputs": specification.describe_inputs(opened.config.model),
        "outputs": specification.describe_outputs(outputs, options.normalized, model["feature_size"]),
        "precision": options.precision,
        "files": files,
        "comparison": {
            "with": "the checkpoint in MindSpore, float32, CPU",
            "inputs": source,
            "rows": sum(verification.BATCH_SIZES),
            "batch_sizes": list(verification.BATCH_SIZES),
            "allowed": {
                "float32": {"largest_difference": verification.TOLERANCE},
                "int8": {"least_cosine": verification.LEAST_COSINE},
            },
        },
        "versions": specification.package_versions(),
    }
