"""Set the tensors of a recognised file against what a model wants: resized, cast up, and told apart by what lacks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from ms_unireid.checkpoints import clip_names as names
from ms_unireid.checkpoints.formats.dtypes import FLOATS, dtype_name, dtype_of
from ms_unireid.checkpoints.formats.tensor_file import Entry
from ms_unireid.checkpoints.recognition import Source
from ms_unireid.config import ModelConfig
from ms_unireid.errors import CheckpointError
from ms_unireid.models.positions import model_grid, resize_positions

NAMED_TENSORS = 4


@dataclass(frozen=True)
class Row:
    """What became of one tensor.

    Attributes:
        name: CLIP's name, or the file's for a tensor that is not used.
        origins: The name or names in the file; empty where it has none.
        status: "matched", "resized", "cast", "resized, cast", "initial", "missing", "unexpected" or what else an
            unused tensor is.
        source_shape: Its shape in the file, joined if it came in parts; None where the file lacks it.
        shape: Its shape in the model; None where it is not used.
        source_dtype: Its element type in the file.
        dtype: Its element type in the model.
    """

    name: str
    origins: tuple[str, ...]
    status: str
    source_shape: tuple[int, ...] | None
    shape: tuple[int, ...] | None
    source_dtype: str | None
    dtype: str | None


def fit(source: Source, model: ModelConfig, allow_missing: Sequence[str] = ()) -> tuple[dict[str, Entry], list[Row]]:
    """Bring a file's tensors into a model's shapes, as float32.

    The position table is resampled where the patch grids differ, even if their sizes agree.

    Args:
        source: The file.
        model: The wanted architecture, picture size, stride and context length.
        allow_missing: Shell patterns of names (ours or CLIP's) that the file may lack; these get no entry.

    Returns:
        CLIP's name to tensor, and a row for every tensor of the model and of the file.

    Raises:
        CheckpointError: Listing what is missing, of another shape, or in the towers and unknown to them; if a tensor
            holds no floating-point numbers; if nobody knows which grid the position table is for.
    """
    if source.model.sizes != model.sizes:
        raise CheckpointError(
            f"{source.file.path}: is a {source.model.architecture}, the model is a {model.architecture}; "
            f"set model.architecture={source.model.architecture}"
        )
    grid = model_grid(model)
    wanted = names.clip_shapes(model.sizes, model.context_length, grid[0] * grid[1])
    found = _resized(source, float32_entries(source, model.temperature), grid)
    missing = [name for name in wanted if name not in found and not _allowed(name, allow_missing)]
    wrong = [
        f"{names.our_name(name)} is {entry.shape}, the model wants {wanted[name]}"
        for name, entry in found.items()
        if entry.shape != wanted[name]
    ]
    unknown = [name for name, what in source.surplus.items() if what == "tower"]
    problems = {"missing": [*map(names.our_name, missing)], "of another shape": wrong, "unknown": unknown}
    if any(problems.values()):
        raise CheckpointError(_misfit(source, problems))
    rows = [_row(source, name, shape, resized=source.grid != grid) for name, shape in wanted.items()]
    return found, rows + _surplus_rows(source)


def float32_entries(source: Source, temperature: float) -> dict[str, Entry]:
    """Return a file's tensors under CLIP's names as float32, none resized.

    The logit scale that IRRA's files never have becomes ln(1 / temperature).

    Raises:
        CheckpointError: If a tensor does not hold floating-point numbers.
    """
    entries = {name: _float32(source, entry) for name, entry in source.entries.items()}
    if source.kind == "irra":
        entries.setdefault(
            names.LOGIT_SCALE, Entry.of(names.LOGIT_SCALE, np.array(math.log(1 / temperature), np.float32))
        )
    return entries


def _float32(source: Source, entry: Entry) -> Entry:
    if dtype_name(entry.dtype) not in FLOATS:
        raise CheckpointError(
            f"{source.file.path}: {entry.name} is {dtype_name(entry.dtype)}; expected floating-point weights, not "
            "quantised ones"
        )
    return Entry(entry.name, dtype_of("float32"), entry.shape, entry.source)


def _resized(source: Source, entries: dict[str, Entry], grid: tuple[int, int]) -> dict[str, Entry]:
    """Replace the position table by one for another grid."""
    if source.grid is None:
        raise CheckpointError(
            f"{source.file.path}: its position table of {source.patches} patches is of no usual picture size; say the "
            "height and width it was trained with: tools/convert_checkpoint.py ... --source-image-size H W"
        )
    if source.grid == grid:
        return entries
    table = entries[names.VISUAL_POSITIONS]
    resized = Entry(
        table.name,
        table.dtype,
        (grid[0] * grid[1] + 1, *table.shape[1:]),
        lambda: resize_positions(table.load(), grid, source.grid),
    )
    return {**entries, names.VISUAL_POSITIONS: resized}


def _allowed(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(n, pattern) for n in (name, names.our_name(name)) for pattern in patterns)


def _row(source: Source, name: str, shape: tuple[int, ...], resized: bool) -> Row:
    entry = source.entries.get(name)
    if entry is None:
        status = "initial" if (name, source.kind) == (names.LOGIT_SCALE, "irra") else "missing"
        return Row(name, (), status, None, shape, None, "float32")
    dtype = dtype_name(entry.dtype)
    changes = ["resized"] if resized and name == names.VISUAL_POSITIONS else []
    changes += [] if dtype == "float32" else ["cast"]
    return Row(name, source.origins[name], ", ".join(changes) or "matched", entry.shape, shape, dtype, "float32")


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
    lists = []
    for what, found in problems.items():
        if found:
            more = f" and {len(found) - NAMED_TENSORS} more" if len(found) > NAMED_TENSORS else ""
            lists.append(f"{len(found)} {what} ({'; '.join(found[:NAMED_TENSORS])}{more})")
    return (
        f"{source.file.path}: does not fill the model: {', '.join(lists)}; it was taken for a {made}. "
        "Take a whole file of this model, or say with --allow-missing what may lack"
    )
