"""Convert a checkpoint between formats and layouts, one tensor in memory at a time."""

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ms_unireid.checkpoints import clip_names as names
from ms_unireid.checkpoints.clip_names import lay_out
from ms_unireid.checkpoints.fitting import Row, fit
from ms_unireid.checkpoints.formats.any_file import WEIGHTS
from ms_unireid.checkpoints.formats.mapped_file import error_context
from ms_unireid.checkpoints.formats.mindspore_file import write_mindspore
from ms_unireid.checkpoints.formats.safetensors_file import write_safetensors
from ms_unireid.checkpoints.formats.tensor_file import META, Entry
from ms_unireid.checkpoints.formats.torch_writer import write_torch
from ms_unireid.checkpoints.recognition import Source, open_source
from ms_unireid.checkpoints.thresholds import read_thresholds, write_thresholds
from ms_unireid.config import Config, ModelConfig, config_from_dict, to_dict, with_model
from ms_unireid.config_schema import Architecture
from ms_unireid.errors import CheckpointError
from ms_unireid.files import replacing, sha256
from ms_unireid.models.positions import model_grid

# SHA-256 of the published files; OpenAI's download addresses contain them.
KNOWN_FILES = {
    "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af": "OpenAI CLIP ViT-B/32",
    "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f": "OpenAI CLIP ViT-B/16",
    "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836": "OpenAI CLIP ViT-L/14",
    "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02": "OpenAI CLIP ViT-L/14@336px",
}
SUFFIXES = {"mindspore": (".ckpt", ".safetensors"), "pytorch": (".pth", ".pt", ".bin", ".safetensors")}
# float32 holds these types exactly, so that a conversion back restores the bits.
_WITHIN_FLOAT32 = ("float16", "bfloat16")


@dataclass(frozen=True)
class Options:
    """How to convert; None recognises what the input is, and keeps what it has.

    `verify` compares features of fixed inputs, computed from input and output, before the output gets its name. This
    imports MindSpore and PyTorch.
    """

    to: str = "mindspore"  # or "pytorch"
    # Names in a PyTorch file: of the authors' code, or "clip" (OpenAI's, open_clip), or "huggingface".
    layout: str = "unireid"
    kind: str | None = None  # of the input
    image_size: tuple[int, int] | None = None  # height and width to resize the position table to
    stride: int | None = None  # distance between patches in pixels to resize it to
    source_image_size: tuple[int, int] | None = None  # height and width of the input's position table
    activation: str | None = None  # of the input; None takes the file's, or "quick_gelu"
    architecture: str | Architecture | None = None  # of the input, if its tensors fit several
    dtype: str | None = None  # in the output; None restores each known type in a PyTorch file, and else is float32
    allow_missing: tuple[str, ...] = ()  # shell patterns of tensors that the input may lack
    verify: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)  # stored in the output's description, such as scores


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion."""

    source: Source
    output: Path
    config: Config  # of the output; only `model` differs from the input's or the default
    rows: list[Row]  # one for every tensor of the model and of the input
    hashes: dict[str, str]  # SHA-256 of each file read and of the output, by file name
    known_as: str | None  # published name of the input, if its hash is known
    verification: Any = None  # with `Options.verify` a `conversion_check.Verification`


def convert(path: str | Path, output: str | Path, options: Options) -> Conversion:
    """Convert a file, and thresholds beside it. If anything fails, no output is written.

    An input that cannot be read or does not fill the model, and a wrong ending of the output, raise a CheckpointError;
    sizes that no model can have a ConfigError; an output that cannot be written a UserError.
    """
    path, output = Path(path), Path(output)
    _check_output(path, output, options.to)
    source = open_source(path, options.kind, options.source_image_size, options.activation, options.architecture)
    source.check_tokenizer()
    check_apart(output, source.file.parts)
    config = config_from_dict(source.meta["config"], str(path)) if source.meta else Config()
    model = replace(
        source.model,
        architecture=options.architecture or source.model.architecture,
        image_size=options.image_size or source.model.image_size,
        stride=options.stride or source.model.stride,
    )
    # From a dictionary, so that sizes that no model can have are refused as in a user's config.
    config = config_from_dict(to_dict(with_model(config, model)), str(path))
    entries, rows = fit(source, model, options.allow_missing)
    hashes = {str(part): sha256(part.open("rb")) for part in source.file.parts}
    thresholds = read_thresholds(path)
    known_as = KNOWN_FILES.get(next(iter(hashes.values())))
    meta = _describe(source, config, rows, hashes, known_as)
    if options.about:
        meta["about"] = {**meta.get("about", {}), **options.about}
    verification = None
    with ThreadPoolExecutor(1) as thread:
        with error_context(path), replacing(output) as temporary:
            _write(temporary, entries, meta, options)
            # Hash while the system writes it to the disk.
            digest = thread.submit(sha256, temporary.open("rb"))
            if options.verify:
                hashes[str(output)] = digest.result()
                verification = _verify(source, temporary, entries, model)
        hashes[str(output)] = digest.result()
    if thresholds and thresholds.checkpoint_sha256 == hashes.get(str(path)):
        write_thresholds(output, replace(thresholds, checkpoint_sha256=hashes[str(output)]))
    return Conversion(source, output, config, rows, hashes, known_as, verification)


def _check_output(path: Path, output: Path, to: str) -> None:
    if output.suffix not in SUFFIXES[to]:
        raise CheckpointError(f"{output}: a {to} checkpoint ends in {' or '.join(SUFFIXES[to])}; rename the output")
    if output.name in WEIGHTS and path.is_dir() and output.parent.resolve() == path.resolve():
        raise CheckpointError(f"{output}: would be read as a part of {path}; write to another folder")


def check_apart(output: Path, inputs: Iterable[Path]) -> None:
    """Raise CheckpointError if a file to write is one of the inputs or lies in a folder of them, also by a link."""
    files = [file for path in inputs for file in (path.iterdir() if path.is_dir() else [path])]
    if output.exists() and any(file.exists() and output.samefile(file) for file in files):
        raise CheckpointError(f"{output}: is also the input; write to another file")


def _describe(
    source: Source, config: Config, rows: list[Row], hashes: Mapping[str, str], known_as: str | None
) -> dict[str, Any]:
    """Return the description that the output stores: config, epoch and the origin of its tensors."""
    origin = {
        "file": source.file.path.name,
        "kind": source.kind,
        "known_as": known_as,
        "sha256": list(hashes.values()),
        "missing": [names.our_name(row.name) for row in rows if row.status == "missing"],
        **source.meta.get("source", {}),
        "dtypes": _restorable(source, rows),
    }
    if any(row.name == names.LOGIT_SCALE and row.source_shape == (1,) for row in rows):
        origin["shapes"] = {names.LOGIT_SCALE: [1]}
    epoch = source.file.values.get("epoch")
    known = {"epoch": epoch} if type(epoch) is int and epoch >= 0 else {}
    return {**known, **source.meta, "source": origin, "config": to_dict(config)}


def _restorable(source: Source, rows: list[Row]) -> dict[str, str]:
    """Return by CLIP's name the types before the cast to float32 that a conversion back can restore."""
    had = dict(source.meta.get("source", {}).get("dtypes", {}))
    had.update((row.name, row.source_dtype) for row in rows if row.source_dtype in _WITHIN_FLOAT32)
    resized = {row.name for row in rows if "resized" in row.status}
    return {name: dtype for name, dtype in had.items() if name not in resized}


def _write(file: Path, entries: Mapping[str, Entry], meta: dict[str, Any], options: Options) -> None:
    text = json.dumps(meta)
    if options.to == "mindspore":
        ours = lay_out(entries, "unireid", dict.fromkeys(entries, options.dtype) if options.dtype else {})
        if file.suffix == ".ckpt":
            write_mindspore(file, ours, {META: text})
        else:
            write_safetensors(file, ours, {META: text})
        return
    if names.LOGIT_SCALE in meta["source"].get("shapes", {}):
        scale = entries[names.LOGIT_SCALE]
        entries = {**entries, scale.name: replace(scale, shape=(1,), source=lambda: scale.source().reshape(1))}
    restored = {names.our_name(name): dtype for name, dtype in meta["source"]["dtypes"].items()}
    dtypes = restored if options.dtype is None else dict.fromkeys(entries, options.dtype)
    theirs = lay_out(entries, options.layout, dtypes)
    if file.suffix == ".safetensors":
        # PyTorch's readers of safetensors check the format.
        write_safetensors(file, theirs, {"format": "pt", META: text})
    elif options.layout == "unireid":
        epoch = {"epoch": meta["epoch"]} if isinstance(meta.get("epoch"), int) else {}
        write_torch(file, theirs, "model", {**epoch, META: text})
    else:
        write_torch(file, theirs)


def _verify(source: Source, written: Path, entries: Mapping[str, Entry], model: ModelConfig) -> Any:
    """Compare features that MindSpore computes from one of the two files with PyTorch's from the other."""
    from ms_unireid.checkpoints.conversion_check import verify

    if source.file.format == "MindSpore checkpoint":  # PyTorch can only read the output
        original, grid, ours = written, model_grid(model), entries
    else:
        original, grid = source.file.path, source.grid
        ours = open_source(written, image_size=model.image_size, architecture=model.architecture).entries
    found = verify(original, grid, model, {name: entry.load() for name, entry in ours.items()})
    if not found.ok:
        raise CheckpointError(
            f"{source.file.path}: its features differ from its conversion's: pictures by {found.image_difference:.1e} "
            f"(at most {found.image_limit:.1e}), captions by {found.text_difference:.1e} (at most "
            f"{found.text_limit:.1e}); nothing was written"
        )
    return found
