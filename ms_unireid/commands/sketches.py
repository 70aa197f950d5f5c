"""Draw sketches of photos: of a text-image data set, which becomes a Tri data set, or of any folder."""

import argparse
import os
from collections.abc import Sequence

from ms_unireid.apps.arguments import JSON, Parser, at_least, checkpoint, input_folder, output_file, output_folder
from ms_unireid.files import FIGURES

# What is chosen among; written here so that --help imports nothing that defines it.
DATASETS = ("cuhk_pedes", "icfg_pedes", "rstp_reid")
BACKGROUNDS = ("mediapipe", "rembg", "onnx", "mask", "none")
STYLES = ("pencil", "lines", "onnx", "command")
SIZE = (384, 128)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        description="Draw sketches of photos and print a summary. Failures are listed in sketches.json.",
        epilog="example: %(prog)s --photos photos --output sketches --style lines",
    )
    photos = parser.add_mutually_exclusive_group(required=True)
    photos.add_argument("--photos", type=input_folder, help="any folder of photos")
    photos.add_argument("--dataset", choices=DATASETS, help="a data set: the photos that its captions name")
    parser.add_argument("--root", type=input_folder, help="with --dataset: folder of the data set")
    parser.add_argument(
        "--output", type=output_folder, help="folder of the sketches (default: the data set's sketch folder)"
    )
    parser.add_argument("--background", default="mediapipe", choices=BACKGROUNDS, help="how to remove the background")
    parser.add_argument("--background-option", action="append", default=[], metavar="KEY=VALUE", help="repeatable")
    parser.add_argument("--style", default="pencil", choices=STYLES, help="how to draw")
    parser.add_argument("--style-option", action="append", default=[], metavar="KEY=VALUE", help="repeatable")
    parser.add_argument("--size", type=int, nargs=2, default=SIZE, metavar=("HEIGHT", "WIDTH"), help="size in pixels")
    parser.add_argument("--variations", type=int, default=1, help="sketches of each photo")
    parser.add_argument("--seed", type=int, default=1, help="seed of all random draws, those of --preview too")
    parser.add_argument("--workers", type=at_least(1), default=os.cpu_count() or 1, help="number of processes")
    parser.add_argument("--redo", action="store_true", help="draw again what was drawn with other options")
    job = parser.add_mutually_exclusive_group()
    job.add_argument(
        "--preview",
        type=output_file(*FIGURES),
        metavar="FILE",
        help="only draw a contact sheet of 12 random photos (PNG, JPEG or PDF)",
    )
    job.add_argument(
        "--merge", type=output_folder, metavar="FOLDER", help="only average each identity's sketches, into FOLDER"
    )
    job.add_argument("--evaluate", action="store_true", help="only measure existing sketches")
    parser.add_argument("--identity-pattern", metavar="REGEX", help="with --photos: its first group names the person")
    parser.add_argument("--reference", type=input_folder, help="with --evaluate: hand-drawn sketches to compare with")
    parser.add_argument("--checkpoint", type=checkpoint, help="with --evaluate: also search the photos with this model")
    parser.add_argument(
        "--split", default="test", choices=("train", "val", "test"), help="with --checkpoint: the photos to search"
    )
    parser.add_argument("--json", type=output_file(*JSON), help="write the summary to this file as JSON")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Run the command with these arguments."""
    options = _parse(arguments)
    from ms_unireid.commands.sketch_jobs import draw

    draw(options)
