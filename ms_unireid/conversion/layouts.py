"""Lay CLIP's tensors out as others name and split them: the inverse of recognising a file."""

from collections.abc import Mapping

import numpy as np

from ms_unireid.conversion import names
from ms_unireid.conversion.dtypes import dtype_of
from ms_unireid.conversion.tensor_file import Entry

LAYOUTS = {
    "unireid": names.our_recipe,
    "clip": names.plain_recipe,
    "huggingface": names.huggingface_recipe,
}


def lay_out(entries: Mapping[str, Entry], layout: str, dtypes: Mapping[str, str]) -> list[Entry]:
    """Rename, split and transpose tensors and give each its type.

    Args:
        entries: CLIP's name to float32 tensor.
        layout: A key of `LAYOUTS`.
        dtypes: CLIP's name to the name of the type to write; float32 where it has none.
    """
    laid_out = []
    for name, entry in entries.items():
        recipe = LAYOUTS[layout](name)
        dtype = dtypes.get(name, "float32")
        for index, target in enumerate(recipe.sources):
            laid_out.append(_part(entry, target, index, len(recipe.sources), recipe.transposed, dtype))
    return laid_out


def _part(entry: Entry, name: str, index: int, parts: int, transposed: bool, dtype: str) -> Entry:
    shape = entry.shape if parts == 1 else (entry.shape[0] // parts, *entry.shape[1:])

    def source() -> np.ndarray:
        array = entry.source()
        if parts > 1:
            array = array[index * shape[0] : (index + 1) * shape[0]]
        return array.T if transposed else array

    return Entry(name, dtype_of(dtype), shape[::-1] if transposed else shape, source)
