"""Export a checkpoint as MindIR and ONNX files, with a description of their inputs and outputs."""

import argparse
from collections.abc import Sequence

from ms_unireid.apps.arguments import Parser, checkpoint, input_file, output_folder
from ms_unireid.commands.progress import progress_bar
from ms_unireid.runtime import check_packages

# What is chosen among; written here so that --help imports nothing that defines it.
FORMATS = ("mindir", "onnx")
PRECISIONS = ("float32", "int8")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        description="Export the image encoder, the text encoder and their fusion, and describe their inputs and "
        "outputs in a file. Each exported file is compared with the checkpoint, and the differences are printed. "
        "docs/export.md shows how to use the files.",
        epilog="example: %(prog)s --checkpoint runs/demo/best_average.ckpt --output exported",
    )
    parser.add_argument(
        "--checkpoint",
        type=checkpoint,
        required=True,
        help="a .ckpt of a run folder, or any other file of a complete model",
    )
    parser.add_argument("--output", type=output_folder, required=True, help="folder to write")
    parser.add_argument(
        "--formats",
        nargs="+",
        choices=FORMATS,
        help="formats to write (default: both; onnx only with --precision int8)",
    )
    parser.add_argument(
        "--precision", default="float32", choices=PRECISIONS, help="precision of the files; int8 is for ONNX on a CPU"
    )
    parser.add_argument("--normalised", action="store_true", help="scale features to unit length")
    parser.add_argument(
        "--pictures",
        type=input_file,
        nargs="+",
        default=[],
        help="compare on these pictures (default: pictures of the data set)",
    )
    parser.add_argument("--redo", action="store_true", help="replace an earlier export in the folder")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="change a value of the config")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Run the command with these arguments."""
    options = _parse(arguments)
    check_packages()
    from ms_unireid.apps.export.exporting import export_checkpoint
    from ms_unireid.apps.export.specification import ExportOptions

    formats = options.formats or (["onnx"] if options.precision == "int8" else FORMATS)
    export_options = ExportOptions(tuple(dict.fromkeys(formats)), options.precision, options.normalised, options.redo)
    with progress_bar("step", "exporting") as show:
        description = export_checkpoint(
            options.checkpoint, options.output, export_options, options.pictures, options.overrides, show
        )
    print(_to_text(description))


def _to_text(description: dict) -> str:
    from tabulate import tabulate

    comparison = description["comparison"]
    batches = ", ".join(map(str, comparison["batch_sizes"]))
    rows = []
    for name, file in description["files"].items():
        measured = f"largest difference {file['largest_difference']:.1e}, smallest cosine {file['least_cosine']:.6f}"
        rows.append((name, file["precision"], f"{file['bytes'] / 2**20:.1f} MiB", measured))
    table = tabulate(rows, tablefmt="plain", colalign=("left", "left", "right", "left"))
    return f"compared on {comparison['inputs']}, in batches of {batches}\n{table}"
