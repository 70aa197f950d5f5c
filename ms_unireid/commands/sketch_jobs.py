"""The jobs of `sketches`: drawing, a contact sheet, averages and measures, with the options that were read."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from ms_unireid.apps.sketch.build import build_sketches, merge_sketches
from ms_unireid.apps.sketch.contact_sheet import draw_contact_sheet
from ms_unireid.apps.sketch.pictures import read_sketch
from ms_unireid.apps.sketch.quality import measure, measure_sketches, summarize
from ms_unireid.apps.sketch.recipe import Recipe, make_recipe
from ms_unireid.apps.sketch.sketch_folder import find_sketch, sketch_names
from ms_unireid.commands.progress import progress_bar
from ms_unireid.data.photo_sets import PhotoSet, dataset_photos, describe_left_out, folder_photos
from ms_unireid.errors import ConfigError, DataError
from ms_unireid.files import write_json
from ms_unireid.runtime import check_packages

_SHOWN = 10


def draw(options: argparse.Namespace) -> None:
    """Draw sketches, a contact sheet or averages, or measure sketches, and print a summary."""
    photos, output = _places(options)
    recipe = make_recipe(
        options.background,
        options.style,
        options.background_option,
        options.style_option,
        size=tuple(options.size),
        variations=options.variations,
        seed=options.seed,
    )
    if options.preview:
        failures = draw_contact_sheet(photos.folder, photos.names, recipe, options.preview)
        summary = {"sheet": str(options.preview), "failed": len(failures)}
    elif options.merge:
        summary, failures = _merge(photos, output, options.merge), {}
    elif options.evaluate:
        summary, failures = _evaluate(photos, output, recipe, options), {}
    else:
        summary, failures = _build(photos, output, recipe, options)
    summary["left out"] = describe_left_out(photos.left_out)
    print(json.dumps(summary, indent=2, ensure_ascii=False))
    if options.json:
        write_json(options.json, summary)
    if failures:
        listed = "; ".join(list(failures.values())[:_SHOWN])
        raise DataError(f"{len(failures)} photos have no sketch: {listed}")


def _places(options: argparse.Namespace) -> tuple[PhotoSet, Path]:
    if options.dataset and not options.root:
        raise ConfigError("--dataset needs --root, the folder of the data set")
    if options.dataset:
        photos = dataset_photos(options.dataset, options.root)
    else:
        photos = folder_photos(options.photos, options.identity_pattern)
    if not photos.names:
        others = describe_left_out(photos.left_out) or "give a folder of picture files"
        raise DataError(f"{photos.folder}: has no photos; {others}")
    output = options.output or photos.sketches
    if output is None and not options.preview:
        raise ConfigError("--photos needs --output, the folder of the sketches")
    return photos, output


def _build(photos: PhotoSet, output: Path, recipe: Recipe, options: argparse.Namespace) -> tuple[dict, dict[str, str]]:
    with progress_bar("photo", "drawing") as show:
        report = build_sketches(photos.folder, photos.names, output, recipe, options.workers, options.redo, show)
    failed, noted = len(report.failures), len(report.notes)
    counts = {"drawn": report.drawn, "there already": report.kept, "failed": failed, "noted": noted}
    return {"folder": str(output), **counts}, report.failures


def _merge(photos: PhotoSet, output: Path, target: Path) -> dict[str, Any]:
    if not photos.identities:
        raise ConfigError("--merge needs identities: use --dataset, or --identity-pattern with --photos")
    with progress_bar("identity", "merging") as show:
        return {"folder": str(target), "identities": merge_sketches(output, photos.identities, target, show)}


def _evaluate(photos: PhotoSet, output: Path, recipe: Recipe, options: argparse.Namespace) -> dict[str, Any]:
    names = sketch_names(photos.names).items()
    sketches = {photo: path for photo, sketch in names if (path := find_sketch(output, photo, sketch)) is not None}
    if not sketches:
        raise DataError(f"{output}: has no sketches of these photos; draw them first, without --evaluate")
    with progress_bar("sketch", "measuring") as show:
        measures = measure_sketches(photos.folder, sketches, recipe, show)
    by_hand = folder_photos(options.reference).names if options.reference else ()
    summary = summarize(measures, [measure(read_sketch(options.reference / name)) for name in by_hand])
    summary["photos_without_sketch"] = len(photos.names) - len(sketches)
    if options.checkpoint:
        summary["retrieval"] = _retrieve(photos, sketches, options)
    return summary


def _retrieve(photos: PhotoSet, sketches: dict[str, Path], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Search the photos by their sketches with a trained model; return the rows of the evaluation."""
    names = [name for name in sketches if photos.splits.get(name, options.split) == options.split]
    if not photos.identities or not names:
        raise ConfigError("--checkpoint needs photos with identities: --dataset and --split, or --identity-pattern")
    check_packages()
    from ms_unireid.checkpoints.checkpoint import open_model
    from ms_unireid.data.evaluation_sets import EvaluationSet
    from ms_unireid.evaluation.encoder import Encoder
    from ms_unireid.evaluation.evaluator import to_json
    from ms_unireid.evaluation.protocols import evaluate_row

    _, person_ids = np.unique([str(photos.identities[name]) for name in names], return_inverse=True)
    drawn = EvaluationSet(
        photos=tuple(photos.folder / name for name in names),
        sketches=tuple(sketches[name] for name in names),
        captions=(),
        person_ids=person_ids,
        styles=("",) * len(names),
        caption_photos=np.zeros(0, int),
    )
    opened = open_model(options.checkpoint)
    feats = Encoder(opened.model, opened.config).encode(drawn)
    rules = ("exclude_source_photo", "full_gallery")
    return to_json({("sketch", rule): evaluate_row("sketch", rule, feats) for rule in rules})
