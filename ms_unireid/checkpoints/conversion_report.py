"""Report a conversion as text and as JSON: every tensor, counts and hashes."""

from collections import Counter
from dataclasses import asdict, replace
from typing import Any

from tabulate import tabulate

from ms_unireid.checkpoints.conversion import Conversion
from ms_unireid.checkpoints.fitting import Row
from ms_unireid.errors import escaped

_HEADINGS = ("status", "tensor", "in the file", "shape", "type")


def to_text(conversion: Conversion) -> str:
    """Return a table with one line per tensor, then counts and hashes."""
    table = tabulate(map(_cells, map(_printable, conversion.rows)), _HEADINGS, "plain", disable_numparse=True)
    return "\n".join([table, "", *_summary(conversion)])


def to_json(conversion: Conversion) -> dict[str, Any]:
    """Return the report as a dictionary for JSON."""
    source = conversion.source
    return {
        "input": str(source.file.path),
        "format": source.file.format,
        "kind": source.kind,
        "known_as": conversion.known_as,
        "output": str(conversion.output),
        "model": asdict(conversion.config.model),
        "source_model": asdict(source.model),
        "counts": counts(conversion.rows),
        "verification": None if conversion.verification is None else asdict(conversion.verification),
        "sha256": conversion.hashes,
        "tensors": [asdict(_printable(row)) for row in conversion.rows],
    }


def counts(rows: list[Row]) -> dict[str, int]:
    """Count the tensors of each status."""
    return dict(Counter(row.status for row in rows))


def _printable(row: Row) -> Row:
    return replace(row, name=escaped(row.name), origins=tuple(map(escaped, row.origins)))


def _cells(row: Row) -> tuple[str, ...]:
    origins = ", ".join(row.origins) or "-"
    return row.status, row.name, origins, _change(row.source_shape, row.shape), _change(row.source_dtype, row.dtype)


def _change(before: Any, after: Any) -> str:
    if before is None or after is None or before == after:
        return str(after if before is None else before)
    return f"{before} -> {after}"


def _summary(conversion: Conversion) -> list[str]:
    source, model = conversion.source, conversion.config.model
    height, width = source.model.image_size
    known = f", known as {conversion.known_as}" if conversion.known_as else ""
    lines = [
        f"{source.file.path}: {source.file.format}, {source.kind}{known}",
        f"{source.model.architecture}, {source.model.activation}, position table of {source.grid[0]}x{source.grid[1]} "
        f"patches for pictures of {height}x{width}; written for {model.image_size[0]}x{model.image_size[1]}",
        ", ".join(f"{count} {status}" for status, count in counts(conversion.rows).items()),
    ]
    if conversion.verification is not None:
        found = conversion.verification
        lines.append(
            f"verified against PyTorch: largest difference of picture features {found.image_difference:.1e}, "
            f"of caption features {found.text_difference:.1e}"
        )
    return lines + [f"sha256 {digest}  {name}" for name, digest in conversion.hashes.items()]
