"""`sketches.json`: what is in a folder of sketches, how it was made, and which photos failed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ms_unireid.apps.sketch.recipe import Recipe
from ms_unireid.apps.sketch.sketch_file import printable
from ms_unireid.errors import DataError
from ms_unireid.files import write_json

FILE = "sketches.json"
_GENERATOR = "ms_unireid.sketch"


def open_folder(output: Path, recipe: Recipe, redo: bool) -> None:
    """Check that a folder may be drawn into.

    Args:
        output: The sketch folder; it may be absent.
        recipe: What is to be drawn.
        redo: Draw anew what an earlier recipe made.

    Raises:
        DataError: If the folder holds what this tool did not make, or what another recipe made and `redo` is not set.
    """
    if not output.exists():
        return
    if not output.is_dir():
        raise DataError(f"{output}: not a folder; choose another --output")
    found = read(output)
    if found is None:
        if any(not child.name.startswith(".") for child in output.iterdir()):
            raise DataError(
                f"{output}: holds files and no {FILE}, so it was not drawn by this tool (the authors' sketches?); "
                "move them away or choose another --output"
            )
        return
    changed = _differences(found.get("recipe"), recipe.to_json())
    if changed and not redo:
        raise DataError(
            f"{output / FILE}: was drawn in another way ({'; '.join(changed[:4])}); take the same options, choose "
            "another --output, or draw all anew with --redo"
        )


def read(output: Path) -> dict[str, Any] | None:
    """Return a folder's manifest, or None if it has none of ours."""
    try:
        found = json.loads((output / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("generator") == _GENERATOR else None


def write(
    output: Path,
    recipe: Recipe,
    photos: int,
    complete: bool,
    notes: Mapping[str, str] | None = None,
    failures: Mapping[str, str] | None = None,
) -> None:
    """Write the manifest; it holds no times and nothing of this run, so that a resumed run ends with the same bytes.

    Raises:
        UserError: If it cannot be written.
    """
    content = {
        "generator": _GENERATOR,
        "complete": complete,
        "photos": photos,
        "failed": len(failures or {}),
        "recipe": recipe.to_json(),
        "failures": _sorted(failures or {}),
        "notes": _sorted(notes or {}),
    }
    write_json(output / FILE, content)


def _sorted(texts: Mapping[str, str]) -> dict[str, str]:
    return {printable(name): printable(text) for name, text in sorted(texts.items())}


def _differences(old: Any, new: dict[str, Any]) -> list[str]:
    """List what differs between two recipes; more variations than before are no difference."""
    old = _flat(old if isinstance(old, dict) else {})
    new = _flat(new)
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key) and key != "variations"]
    if isinstance(old.get("variations"), int) and old["variations"] > new["variations"]:
        changed.append("variations")
    return [f"{key} was {old.get(key)!r}, now {new.get(key)!r}" for key in changed]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value})
    return flat
