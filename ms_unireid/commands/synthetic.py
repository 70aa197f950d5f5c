"""Make a synthetic Tri data set (photos, captions, sketches) in the CUHK-PEDES layout."""

import argparse
import json
from collections.abc import Sequence

from ms_unireid.apps.arguments import Parser, at_least, output_folder
from ms_unireid.commands.progress import progress_bar

# What is chosen among; written here so that --help imports nothing that defines it.
SKETCH_STYLES = ("pencil", "lines")
MODALITIES = ("sketch", "pencil", "infrared")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        description="Make a synthetic Tri data set (photos, captions, sketches) in the CUHK-PEDES layout.",
        epilog="example: %(prog)s --output data/synthetic --workers 2",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output", type=output_folder, required=True, help="folder to write CUHK-PEDES/ into")
    parser.add_argument("--train-identities", type=int, default=600, help="people to train on")
    parser.add_argument("--val-identities", type=int, default=40, help="people to validate on")
    parser.add_argument("--test-identities", type=int, default=100, help="people to test on")
    parser.add_argument("--photos", type=int, default=4, help="photos of each person")
    parser.add_argument("--train-photos", type=int, help="photos of each person to train on, if not as many")
    parser.add_argument("--captions", type=int, default=2, help="captions of each photo")
    parser.add_argument("--seed", type=int, default=1, help="seed of all random draws")
    parser.add_argument("--sketch-style", choices=SKETCH_STYLES, help="draw the sketches from the photos in this style")
    parser.add_argument(
        "--modalities",
        nargs="+",
        choices=MODALITIES,
        help="pictures to draw beside each photo, and to list in pairs.csv; default: sketch, without pairs.csv",
    )
    parser.add_argument("--workers", type=at_least(1), default=1, help="number of processes")
    parser.add_argument("--force", action="store_true", help="replace an existing synthetic data set")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Run the command with these arguments."""
    options = _parse(arguments)
    from ms_unireid.apps.synthetic.dataset import SyntheticConfig, generate_tri_dataset

    identities = (options.train_identities, options.val_identities, options.test_identities)
    photos = {"photos_per_identity": options.photos, "train_photos": options.train_photos}
    drawing = {"seed": options.seed, "sketch_style": options.sketch_style}
    drawing["modalities"] = options.modalities and tuple(options.modalities)
    config = SyntheticConfig(*identities, captions_per_photo=options.captions, **photos, **drawing)
    with progress_bar("identity") as show:
        folder = generate_tri_dataset(options.output, config, options.workers, show, options.force)
    print(json.dumps({"folder": str(folder), **config.counts(), "seed": config.seed}))
