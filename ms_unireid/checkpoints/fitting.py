"""Fit the tensors of a recognised file to a model: resize positions, cast to float32, report every tensor."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase

import numpy as np

from ms_unireid.checkpoints import clip_names as names
from ms_unireid.checkpoints.formats.dtypes import dtype_name
from ms_unireid.checkpoints.formats.mapped_file import error_context
from ms_unireid.checkpoints.formats.tensor_file import Entry, check_finite
from ms_unireid.checkpoints.recognition import Source
from ms_unireid.config import ModelConfig
from ms_unireid.config_schema import CONTEXT_LENGTH
from ms_unireid.data.findings import listed
from ms_unireid.errors import CheckpointError, escaped
from ms_unireid.installation import job_command
from ms_unireid.models.positions import LEAST_ROWS, model_grid, resize_positions, stretch_positions

NAMED_TENSORS = 4


@dataclass(frozen=True)
class Row:
    """What the conversion did with one tensor.

    `status` is "matched", "initial", "missing", or some of "resized", "reshaped" and "cast"; for an unused tensor
    "unexpected", "buffer" or "optimizer state".
    """

    name: str  # CLIP's, or the name in the file for an unused tensor
    origins: tuple[str, ...]  # names in the file; empty if missing
    status: str
    source_shape: tuple[int, ...] | None  # in the file, with joined parts; None if missing
    shape: tuple[int, ...] | None  # in the model; None if unused
    source_dtype: str | None
    dtype: str | None


def fit(source: Source, model: ModelConfig, allow_missing: Sequence[str] = ()) -> tuple[dict[str, Entry], list[Row]]:
    """Fit a file's tensors to a model, as float32.

    The visual position table is resized if the patch grids differ, even with equal numbers of patches, and that of
    captions is stretched to a context length above CLIP's. `allow_missing` are shell patterns of names (ours or CLIP's)
    that may be missing; these get no entry. Returns tensors by our names, and a row for every tensor of the model and
    of the file.

    CheckpointError if the architectures or otherwise the context lengths differ, tensors are missing, have another
    shape or are unknown parts of a tower, a tensor is not floating-point, or the grid of the position table is unknown.
    """
    if source.model.sizes != model.sizes:
        name = source.model.architecture
        setting = name if isinstance(name, str) else json.dumps(asdict(name))
        raise CheckpointError(
            f"{source.file.path}: is a {name}, the model is a {model.architecture}; set model.architecture={setting}"
        )
    grid = model_grid(model)
    wanted = names.our_shapes(model.sizes, model.context_length, grid[0] * grid[1])
    saved = float32_entries(source, model.temperature)
    found = _stretched(source, _resized(source, saved, grid), model.context_length)
    missing = [name for name in wanted if name not in found and not _allowed(name, allow_missing)]
    wrong = [
        f"{name} is {entry.shape}, the model needs {wanted[name]}"
        for name, entry in found.items()
        if entry.shape != wanted[name]
    ]
    unknown = [escaped(name) for name, what in source.surplus.items() if what == "tower"]
    problems = {"missing": missing, "of another shape": wrong, "unknown": unknown}
    if any(problems.values()):
        raise CheckpointError(_misfit(source, problems))
    rows = [_row(source, name, shape, found.get(name) is not saved.get(name)) for name, shape in wanted.items()]
    return found, rows + _surplus_rows(source)


def float32_entries(source: Source, temperature: float) -> dict[str, Entry]:
    """Return a file's tensors by our names as float32, not resized.

    IRRA's files have no logit scale; it becomes ln(1 / temperature). A tensor that is not floating-point, and a value
    that is not finite, raise a CheckpointError.
    """
    entries = {name: entry.as_float32(source.file.path) for name, entry in source.entries.items()}
    saved = ((", ".join(source.origins[name]), entry.load()) for name, entry in entries.items())
    with error_context(source.file.path):
        check_finite(source.file.path, saved)
    if source.kind == "irra":
        entries.setdefault(
            names.LOGIT_SCALE, Entry.of(names.LOGIT_SCALE, np.array(math.log(1 / temperature), np.float32))
        )
    return entries


def _resized(source: Source, entries: dict[str, Entry], grid: tuple[int, int]) -> dict[str, Entry]:
    """Replace the position table if the grids differ."""
    if source.grid is None:
        raise CheckpointError(
            f"{source.file.path}: its position table of {source.patches} patches has no usual picture size; give the "
            f"height and width it was trained with: {job_command('convert')} ... --source-image-size H W"
        )
    if source.grid == grid:
        return entries
    return _replaced(
        entries,
        names.VISUAL_POSITIONS,
        grid[0] * grid[1] + 1,
        lambda table: resize_positions(table, grid, source.grid),
    )


def _stretched(source: Source, entries: dict[str, Entry], length: int) -> dict[str, Entry]:
    """Replace the position table of captions if it is shorter than one of `length` rows, more than CLIP's."""
    rows = source.model.context_length
    if names.TEXT_POSITIONS not in entries or rows == length:
        return entries
    if LEAST_ROWS <= rows < length and length > CONTEXT_LENGTH:
        return _replaced(entries, names.TEXT_POSITIONS, length, lambda table: stretch_positions(table, length))
    also = " data.long_captions=stretch" if rows > CONTEXT_LENGTH else ""
    raise CheckpointError(
        f"{source.file.path}: reads captions of {rows} tokens, and the model of {length}; set "
        f"model.context_length={rows}{also}"
    )


def _replaced(
    entries: dict[str, Entry], name: str, rows: int, change: Callable[[np.ndarray], np.ndarray]
) -> dict[str, Entry]:
    table = entries[name]
    return {**entries, name: Entry(name, table.dtype, (rows, *table.shape[1:]), lambda: change(table.load()))}


def _allowed(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(n, pattern) for n in (name, names.clip_name(name)) for pattern in patterns)


def _row(source: Source, name: str, shape: tuple[int, ...], resized: bool) -> Row:
    entry, clip_name = source.entries.get(name), names.clip_name(name)
    if entry is None:
        status = "initial" if (name, source.kind) == (names.LOGIT_SCALE, "irra") else "missing"
        return Row(clip_name, (), status, None, shape, None, "float32")
    dtype, origins = dtype_name(entry.dtype), source.origins[name]
    found = source.file.tensors[origins[0]].shape if name == names.LOGIT_SCALE else entry.shape
    changes = ["resized"] if resized else []
    changes += [] if found == entry.shape else ["reshaped"]
    changes += [] if dtype == "float32" else ["cast"]
    return Row(clip_name, origins, ", ".join(changes) or "matched", found, shape, dtype, "float32")


def _surplus_rows(source: Source) -> list[Row]:
    rows = []
    for name, what in source.surplus.items():
        array = source.file.tensors[name]
        status = "unexpected" if what == "extra" else what
        rows.append(Row(name, (name,), status, array.shape, None, dtype_name(array.dtype), None))
    return rows


def _misfit(source: Source, problems: dict[str, list[str]]) -> str:
    model = source.model
    made = f"{model.architecture} at image size {list(model.image_size)}, stride {model.stride}, {source.kind}"
    lists = [f"{len(some)} {what} ({listed(some, NAMED_TENSORS, '; ')})" for what, some in problems.items() if some]
    return (
        f"{source.file.path}: does not fill the model: {', '.join(lists)}; it was recognised as a {made}. "
        "Use a complete file of this model, or name with --allow-missing what may be missing"
    )
