"""Opens what `--index` names."""

from pathlib import Path

from ms_unireid.apps.search.engines.embedded import PhotoIndex
from ms_unireid.apps.search.engines.faiss import FaissIndex
from ms_unireid.apps.search.engines.store import PhotoStore


def open_store(place: str | Path, approximate: bool = False) -> PhotoStore:
    """Open the index in a folder, `approximate` through the faiss index that `build_approximate` built in it.

    DataError if it is missing or damaged; EnvironmentProblem if its engine is not installed.
    """
    return FaissIndex(Path(place)) if approximate else PhotoIndex(Path(place))
