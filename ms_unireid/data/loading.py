"""From a config to annotations whose pictures are known to be there and whole."""

from collections.abc import Sequence
from pathlib import Path

from ms_unireid.config import DataConfig
from ms_unireid.data.annotations import Annotation
from ms_unireid.data.pictures import check_pictures
from ms_unireid.data.tri_pedes import load_tri_pedes


def load_splits(config: DataConfig, splits: Sequence[str]) -> dict[str, tuple[Annotation, ...]]:
    """Load the annotations of some splits and check every photo and sketch they name.

    Raises:
        DataError: For anything wrong with the annotation file or the pictures.
    """
    loaded = load_tri_pedes(config.name, Path(config.root), splits, config.allow_identity_gaps)
    check_pictures(path for split in splits for a in loaded[split] for path in (a.photo, a.sketch))
    return loaded
