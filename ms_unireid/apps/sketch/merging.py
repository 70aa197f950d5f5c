"""The authors' variant: one sketch per identity, the average of all its sketches."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path

import numpy as np

from ms_unireid.apps.sketch import manifest
from ms_unireid.apps.sketch.pictures import read_grey, resize
from ms_unireid.apps.sketch.sketch_file import sketch_names, sketch_path, write_sketch
from ms_unireid.errors import DataError


def merge_sketches(
    sketches: Path,
    identities: Mapping[str, Hashable],
    output: Path,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write the average of each identity's sketches under the name of each of them, so that parsers find it.

    Args:
        sketches: Folder that `build_sketches` filled.
        identities: By relative path of each photo, who it shows.
        output: Folder to write into; made if absent, replaced file by file.
        progress: Called with (identities done, identities in all).

    Returns:
        The number of identities.

    Raises:
        DataError: If a sketch is missing or damaged, or the output would overwrite the sketches.
        UserError: If a file cannot be written.
    """
    _check_folders(sketches, output)
    names, groups = sketch_names(list(identities)), defaultdict(list)
    for photo, identity in identities.items():
        groups[identity].append(photo)
    for done, members in enumerate(groups.values(), 1):
        average = _average([read_grey(sketch_path(sketches, names[photo])) for photo in members])
        for photo in members:
            write_sketch(sketch_path(output, names[photo]), average, photo, "merged")
        if progress:
            progress(done, len(groups))
    return len(groups)


def _check_folders(sketches: Path, output: Path) -> None:
    if manifest.read(sketches) is None:
        raise DataError(f"{sketches}: holds no {manifest.FILE}; draw the sketches first, then merge them")
    if output.resolve() == sketches.resolve():
        raise DataError(f"{output}: is the folder of the sketches; merge into another one")


def _average(pictures: list[np.ndarray]) -> np.ndarray:
    size = pictures[0].shape
    return np.rint(np.mean([resize(picture, size) for picture in pictures], axis=0)).astype(np.uint8)
