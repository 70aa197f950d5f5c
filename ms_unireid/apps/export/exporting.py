"""Exports a checkpoint to a folder: MindIR and ONNX files, each compared with the checkpoint, and a description."""

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mindspore as ms

from ms_unireid.apps.export import onnx_files, specification, verification
from ms_unireid.apps.export.parts import Part, input_placeholders, make_parts
from ms_unireid.apps.export.samples import find_samples
from ms_unireid.apps.export.specification import ExportOptions
from ms_unireid.checkpoints.checkpoint import OpenedModel, open_model
from ms_unireid.checkpoints.formats.any_file import checkpoint_digest
from ms_unireid.data.pictures import load_picture
from ms_unireid.data.tokenizer import VOCABULARY
from ms_unireid.errors import ConfigError, ExportError, UserError
from ms_unireid.files import replacing_folder, sha256, write_json
from ms_unireid.modalities import pictures_of
from ms_unireid.models.positions import model_grid

_READABLE = 0o644
# The form of the model that is exported, and that the files are compared with.
_EXPORTED_FORM = (
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
    """Export a checkpoint, compare every file with it, and return the description that is written to the folder.

    Args:
        path: A checkpoint, or another file that holds a whole model.
        output: The new folder; it appears only when every file has passed.
        options: Formats and precision.
        pictures: Pictures to compare on, instead of the data set's or drawn ones.
        overrides: `section.key=value` strings.
        progress: Called with (steps done, all steps).

    Raises:
        ExportError: If a file cannot be written or its outputs differ from the checkpoint's.
        UserError: If the checkpoint, a picture, a package or the folder is wrong.
    """
    _check_request(output, options, [path, *pictures])
    for picture in pictures:
        load_picture(picture)
    opened = open_model(path, [*overrides, *_EXPORTED_FORM])
    samples = find_samples(opened.config, pictures)
    parts = make_parts(opened.model, samples, options.normalized, _pictures(opened))
    with replacing_folder(output) as folder:
        files = _write_all(folder, parts, opened, options, progress)
        shutil.copyfile(VOCABULARY, folder / VOCABULARY.name)
        description = _describe(path, opened, parts, options, samples.source, files)
        write_json(folder / specification.FILE_NAME, description)
    return description


def _check_request(output: Path, options: ExportOptions, inputs: Sequence[Path]) -> None:
    if options.precision == "int8" and options.formats != ("onnx",):
        raise ConfigError("--precision int8 writes ONNX files only; give --formats onnx")
    if "onnx" in options.formats:
        onnx_files.need_onnx()
    for file in inputs:
        if output.resolve() in (file.resolve(), *file.resolve().parents):
            raise UserError(f"{output}: holds {file}, which would be replaced; choose another folder")
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / specification.FILE_NAME).is_file():
        raise UserError(f"{output}: the folder is not an export; choose another folder or move this one away")
    if not options.redo:
        raise UserError(f"{output}: the folder holds an export; choose another folder, or replace it with --redo")


def _write_all(
    folder: Path,
    parts: Sequence[Part],
    opened: OpenedModel,
    options: ExportOptions,
    progress: Callable[[int, int], None] | None,
) -> dict[str, dict[str, Any]]:
    """Write and compare every file; return the description of each by its name."""
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
    """Return the sizes whose products are the lengths of the axes of the model's tensors."""
    config = opened.config.model
    return {size for p in opened.model.get_parameters() for size in p.shape} | {*config.image_size, *model_grid(config)}


def _pictures(opened: OpenedModel) -> tuple[str, ...]:
    return pictures_of(opened.config.objective.tasks)


def _precision(part: Part, options: ExportOptions) -> str:
    return "float32" if part.name == "fusion" else options.precision  # fusion has no weights


def _compare_all(folder: Path, kind: str, parts: Sequence[Part], options: ExportOptions) -> dict[str, dict[str, Any]]:
    files = {folder / f"{part.name}.{kind}": part for part in parts}
    outputs = verification.run_in_fresh_process(list(files), {part.name: part.inputs for part in parts})
    descriptions = {}
    for file, part in files.items():
        agreement, precision = verification.compare(file, outputs[file], part.expected), _precision(part, options)
        verification.check_tolerance(file, agreement, precision)
        opset = {"opset": onnx_files.opset(file)} if kind == "onnx" else {}
        about = {"sha256": sha256(file.open("rb")), "bytes": file.stat().st_size, "precision": precision}
        descriptions[file.name] = about | opset | asdict(agreement)
    return descriptions


def _write(file: Path, part: Part, batch: int, precision: str) -> None:
    folder_mode = file.parent.stat().st_mode
    try:
        if file.suffix == ".mindir":
            _write_mindir(file, part)
        else:
            _write_onnx(file, part, batch, precision)
    except (RuntimeError, TypeError, ValueError) as error:  # MindSpore's exporters raise any of them
        reason = " ".join(str(error).split())[:200]
        raise ExportError(f"{file.name}: cannot be written ({type(error).__name__}: {reason})") from error
    # MindSpore takes away the rights of others, and the right to write the file.
    file.chmod(_READABLE)
    file.parent.chmod(folder_mode)


def _write_mindir(file: Path, part: Part) -> None:
    with _plain_name(file) as name:
        ms.export(part.cell, *input_placeholders(part, None), file_name=name, file_format="MINDIR")
    if not file.exists():
        raise ValueError("MindSpore splits networks above 1 GiB into several files; give --formats onnx")


@contextlib.contextmanager
def _plain_name(file: Path) -> Iterator[str]:
    """Yield the file's name in its folder: MindSpore's exporters refuse a path with blanks or other letters."""
    before = Path.cwd()
    os.chdir(file.parent)
    try:
        yield file.name
    finally:
        os.chdir(before)


def _write_onnx(file: Path, part: Part, batch: int, precision: str) -> None:
    inputs = input_placeholders(part, batch)
    with _plain_name(file) as name:
        if importlib.util.find_spec("mindspore.onnx"):  # since 2.7.1, where ms.export as ONNX is deprecated
            importlib.import_module("mindspore.onnx").export(part.cell, *inputs, file_name=name)
        else:
            ms.export(part.cell, *inputs, file_name=name, file_format="ONNX")
    file.chmod(_READABLE)  # open_batch rewrites it
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
        "inputs": specification.describe_inputs(
            opened.config.model, opened.config.data.long_captions, _pictures(opened)
        ),
        "outputs": specification.describe_outputs(
            outputs, options.normalized, model["feature_size"], _pictures(opened)
        ),
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
