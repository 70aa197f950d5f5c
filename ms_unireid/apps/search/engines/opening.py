"""Opens what `--index` names."""

from pathlib import Path

from ms_unireid.apps.search.engines.embedded import PhotoIndex
from ms_unireid.apps.search.engines.faiss import FaissIndex
from ms_unireid.apps.search.engines.milvus import MilvusStore
from ms_unireid.apps.search.engines.milvus_client import is_address
from ms_unireid.apps.search.engines.store import PhotoStore
from ms_unireid.apps.search.manifest import MANIFEST
from ms_unireid.errors import ConfigError


def open_store(place: str | Path, approximate: bool = False) -> PhotoStore:
    """Open the index in a folder, or a collection of Milvus by its address.

    `approximate` searches a folder through the faiss index that `build_approximate` built in it.

    DataError if it is missing or damaged; EnvironmentProblem if its engine is not installed; UserError if it cannot be
    reached.
    """
    if is_address(str(place)) and not (Path(place) / MANIFEST).exists():
        if approximate:
            raise ConfigError("--approximate is for an index in a folder; Milvus searches as `push --kind` says")
        return MilvusStore(str(place))
    return FaissIndex(Path(place)) if approximate else PhotoIndex(Path(place))
