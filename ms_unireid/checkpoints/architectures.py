"""Recognise the architecture of a dual encoder from the shapes of its tensors."""

from collections.abc import Mapping

from ms_unireid.checkpoints import clip_names as names
from ms_unireid.checkpoints.formats.mapped_file import InvalidFile
from ms_unireid.config_schema import ARCHITECTURES, Architecture, TowerSize

TOWERS = ("vision", "text")
_HEAD_WIDTH = 64
Shapes = Mapping[str, names.Shape]
# The keys are those of `_flat`; None is an unknown size.
Sizes = dict[str, int | None]


def sizes_of(shapes: Shapes, layers: Sizes, heads: Sizes) -> Sizes:
    """Return the sizes of a file from its shapes by our names; InvalidFile for an impossible patch embedding.

    `layers` and `heads` are the numbers of blocks and heads in each of `TOWERS`; the shapes do not depend on the heads.
    """
    patches = shapes[names.PATCH_EMBEDDING]
    if len(patches) != 4 or patches[1] != 3 or patches[2] != patches[3]:
        raise InvalidFile(f"has a patch embedding of shape {patches}; expected (width, 3, patch size, patch size)")
    vocabulary_size, text_width = _matrix(shapes, "base_model.token_embedding.weight")
    embed_dim = _matrix(shapes, "base_model.visual.proj")[1] or _matrix(shapes, "base_model.text_projection")[1]
    towers = {"vision": patches[0], "text": text_width}
    found = {}
    for tower, width in towers.items():
        found |= {f"{tower} width": width, f"{tower} layers": layers[tower], f"{tower} heads": heads[tower]}
    return found | {"patch size": patches[2], "embed dim": embed_dim, "vocabulary size": vocabulary_size}


def choose_architecture(found: Sizes, shapes: Shapes, wanted: str | Architecture | None) -> str | Architecture:
    """Return the registered name that fits, or the sizes of a complete CLIP without a registered name.

    `wanted`, a name or sizes, is preferred if it fits. InvalidFile if several names fit, or none fits and the tensors
    are not a complete CLIP.
    """
    if isinstance(wanted, Architecture) and fits(found, wanted):
        return wanted
    fitting = [name for name, sizes in ARCHITECTURES.items() if fits(found, sizes)]
    if wanted in fitting:
        return wanted
    if len(fitting) > 1:
        raise InvalidFile(
            f"fits the architectures {' and '.join(fitting)}; set model.architecture to the right one, or convert the "
            "file with --architecture"
        )
    if fitting:
        return fitting[0]
    described = _described(found)
    if described and _is_complete(shapes, described):
        return described
    raise InvalidFile(
        f"fits none of the architectures {', '.join(ARCHITECTURES)}, and is not a complete CLIP with {_HEAD_WIDTH} "
        f"channels per head: found {text_of(found)}; use another file, or describe its sizes in model.architecture"
    )


def fits(found: Sizes, architecture: Architecture) -> bool:
    """Return whether an architecture has all sizes that are known."""
    sizes = _flat(architecture)
    return all(value in (None, sizes[key]) for key, value in found.items())


def text_of(found: Sizes) -> str:
    """Return the known sizes for a message."""
    return ", ".join(f"{key} {value}" for key, value in found.items() if value is not None)


def _matrix(shapes: Shapes, name: str) -> tuple[int | None, ...]:
    shape = shapes.get(name, ())
    return shape if len(shape) == 2 else (None, None)


def _flat(architecture: Architecture) -> dict[str, int]:
    sizes = {f"{tower} {key}": value for tower in TOWERS for key, value in vars(getattr(architecture, tower)).items()}
    return sizes | {
        "patch size": architecture.patch_size,
        "embed dim": architecture.embed_dim,
        "vocabulary size": architecture.vocabulary_size,
    }


def _described(found: Sizes) -> Architecture | None:
    """Return an architecture of these sizes, with CLIP's width of a head where the heads are unknown."""
    sizes = [(found[f"{tower} width"], found[f"{tower} layers"], found[f"{tower} heads"]) for tower in TOWERS]
    towers = [TowerSize(w, n, h or w // _HEAD_WIDTH) for w, n, h in sizes if w and n and w % (h or _HEAD_WIDTH) == 0]
    rest = found["patch size"], found["embed dim"], found["vocabulary size"]
    return Architecture(*towers, *rest) if len(towers) == 2 and all(rest) else None


def _is_complete(shapes: Shapes, architecture: Architecture) -> bool:
    rows = [_matrix(shapes, name)[0] for name in (names.TEXT_POSITIONS, names.VISUAL_POSITIONS)]
    if None in rows:
        return False
    wanted = names.our_shapes(architecture, rows[0], rows[1] - 1)
    del wanted[names.LOGIT_SCALE]  # IRRA's files have none
    return all(shapes.get(name) == shape for name, shape in wanted.items())
