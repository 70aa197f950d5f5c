"""Convert a checkpoint: any CLIP, UNIReID or IRRA file to MindSpore, or back to PyTorch; neither needs PyTorch."""

import argparse
import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ms_unireid.apps.arguments import JSON, Parser, checkpoint, input_file, output_file
from ms_unireid.errors import CheckpointError
from ms_unireid.files import read_json, write_json
from ms_unireid.runtime import prepare

if TYPE_CHECKING:
    from ms_unireid.checkpoints.conversion import Options

# What is chosen among; written here so that --help imports nothing that defines it.
FRAMEWORKS = ("mindspore", "pytorch")
LAYOUTS = ("unireid", "clip", "huggingface")
KINDS = ("openai_clip", "huggingface_clip", "open_clip", "unireid", "irra", "ms_unireid")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        description="Convert a checkpoint; the table of its tensors goes to stdout.",
        epilog="example: %(prog)s runs/cuhk/best_average.ckpt unireid.pth --verify",
    )
    parser.add_argument("input", type=Path, nargs="?", help="a checkpoint file, or a Hugging Face folder")
    parser.add_argument("output", type=Path, help="a file that ends in .ckpt, .safetensors, .pth, .pt or .bin")
    parser.add_argument(
        "--to", choices=FRAMEWORKS, help="default: by the ending of the output; .safetensors is mindspore"
    )
    parser.add_argument(
        "--source",
        metavar="mindnlp:NAME",
        help="instead of INPUT: a Hugging Face name or folder that MindNLP loads (docs/checkpoints.md)",
    )
    parser.add_argument("--layout", choices=LAYOUTS, default="unireid", help="names in a PyTorch file")
    parser.add_argument("--kind", choices=KINDS, help="kind of the input; default: recognised by its content")
    parser.add_argument("--image-size", type=int, nargs=2, metavar=("H", "W"), help="resize the position table to this")
    parser.add_argument("--stride", type=int, help="resize the position table to this distance between patches")
    parser.add_argument(
        "--source-image-size",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="size of the input's position table",
    )
    parser.add_argument("--activation", choices=("quick_gelu", "gelu"), help="activation of the input")
    parser.add_argument("--architecture", metavar="NAME", help="architecture of the input, if its tensors fit several")
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help="type of the output; default: float32, and in a PyTorch file the type before the conversion, where known",
    )
    parser.add_argument(
        "--about",
        type=input_file,
        action="append",
        default=[],
        metavar="FILE",
        help="a JSON file to store in the output's description under its name, such as a run's environment.json or the "
        "scores of evaluate --json; repeatable",
    )
    parser.add_argument(
        "--allow-missing",
        action="append",
        default=[],
        metavar="PATTERN",
        help="tensors that may be missing in the input, such as 'transformer.*'; may be given several times",
    )
    parser.add_argument(
        "--verify", action="store_true", help="compare features of the output with PyTorch's of the input, on the CPU"
    )
    parser.add_argument("--json", type=output_file(*JSON), help="write the table as JSON")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Run the command with these arguments."""
    options = _parse(arguments)
    from ms_unireid.checkpoints.conversion import check_apart, convert
    from ms_unireid.checkpoints.conversion_report import to_json, to_text
    from ms_unireid.config import RuntimeConfig

    if (options.input is None) == (options.source is None):
        raise CheckpointError("give either INPUT or --source mindnlp:NAME; see --help")
    if options.input:
        checkpoint(str(options.input))
    if options.json:
        check_apart(options.json, filter(None, [options.input, options.output]))
    if options.verify:
        prepare(RuntimeConfig(device="CPU", graph_mode=False))
    with _input_file(options) as file:
        conversion = convert(file, options.output, _conversion_options(options))
    print(to_text(conversion))
    if options.json:
        write_json(options.json, to_json(conversion))


@contextlib.contextmanager
def _input_file(options: argparse.Namespace) -> Iterator[Path]:
    if options.source is None:
        yield options.input
        return
    bridge, _, name = options.source.partition(":")
    if bridge != "mindnlp" or not name:
        raise CheckpointError(f"--source {options.source}: expected mindnlp:NAME with a Hugging Face name or folder")
    from ms_unireid.checkpoints.mindnlp_bridge import export_clip

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{Path(name).name or 'clip'}.safetensors"
        export_clip(name, file)
        yield file


def _conversion_options(options: argparse.Namespace) -> "Options":
    from ms_unireid.checkpoints.conversion import SUFFIXES, Options

    return Options(
        to=options.to or ("pytorch" if options.output.suffix in SUFFIXES["pytorch"][:-1] else "mindspore"),
        layout=options.layout,
        kind=options.kind,
        image_size=_pair(options.image_size),
        stride=options.stride,
        source_image_size=_pair(options.source_image_size),
        activation=options.activation,
        architecture=options.architecture,
        dtype=options.dtype,
        allow_missing=tuple(options.allow_missing),
        verify=options.verify,
        about={file.stem: read_json(file, {}, "give a JSON file") for file in options.about},
    )


def _pair(size: list[int] | None) -> tuple[int, int] | None:
    return None if size is None else (size[0], size[1])
