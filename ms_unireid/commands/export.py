"""Export a checkpoint for other programs: MindIR and ONNX files, with a description of their inputs.

python tools/export_model.py --checkpoint runs/cuhk/best_average.ckpt --output exported
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from ms_unireid.apps.export.specification import FORMATS, PRECISIONS, ExportOptions
from ms_unireid.runtime import check_packages


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Export the image encoder, the text encoder and their fusion, each file compared with the "
        "checkpoint in a fresh process; the differences go to stdout, a description of inputs and outputs beside the "
        "files. docs/export.md shows how to use them.",
        epilog="example: python tools/export_model.py --checkpoint runs/demo/best_average.ckpt --output exported",
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="a .ckpt of a run folder, or a whole model")
    parser.add_argument("--output", type=Path, required=True, help="folder of the files; made whole or not at all")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, help="both by default; onnx with --precision int8")
    parser.add_argument("--precision", default="float32", choices=PRECISIONS, help="int8: ONNX on a CPU")
    parser.add_argument("--normalised", action="store_true", help="give features of unit length")
    parser.add_argument(
        "--pictures", type=Path, nargs="+", default=[], help="compare on these, not on those of the data set"
    )
    parser.add_argument("--redo", action="store_true", help="replace an earlier export in the folder")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="change a value of the config")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Run the job with these arguments of its command line."""
    options = _parse(arguments)
    check_packages()
    from ms_unireid.apps.export.exporting import export_checkpoint

    formats = options.formats or (["onnx"] if options.precision == "int8" else FORMATS)
    wanted = ExportOptions(tuple(dict.fromkeys(formats)), options.precision, options.normalised, options.redo)
    with tqdm(unit="step", desc="exporting") as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        description = export_checkpoint(
            options.checkpoint, options.output, wanted, options.pictures, options.overrides, show
        )
    print(_to_text(description))


def _to_text(description: dict) -> str:
    lines = [
        f"compared on {description['comparison']['inputs']}, in batches of "
        f"{', '.join(map(str, description['comparison']['batch_sizes']))}"
    ]
    for name, file in description["files"].items():
        measured = f"largest difference {file['largest_difference']:.1e}, least cosine {file['least_cosine']:.6f}"
        lines.append(f"{name:<20} {file['precision']:<8} {file['bytes'] / 2**20:8.1f} MiB  {measured}")
    return "\n".join(lines)
