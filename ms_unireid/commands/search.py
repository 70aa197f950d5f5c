"""Search photos by text, sketch or both: `index` a folder of photos, then `query` the index.

python tools/search.py index --photos DIR --checkpoint runs/cuhk/best_average.ckpt --output INDEX
python tools/search.py query --index INDEX --text "a man in a red jacket" --sketch sketch.png --figure found.png
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ms_unireid.apps.arguments import (
    JSON,
    Parser,
    add_encoder,
    at_least,
    checkpoint,
    input_file,
    input_folder,
    output_file,
    output_folder,
)
from ms_unireid.apps.search.engines.milvus_client import parse_address
from ms_unireid.apps.search.places import is_url, path_of
from ms_unireid.files import FIGURES

# What is chosen among; written here so that --help imports nothing that defines it.
DATASETS = ("cuhk_pedes", "icfg_pedes", "rstp_reid", "pairs")
DTYPES = ("float16", "float32")
KINDS = ("exact", "hnsw", "diskann", "ivf-pq")
FOLD = 0.98
_INDEX = "folder of the index, or its address in Milvus, as `push --to`"


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        description="Search photos by text, sketch or both.",
        epilog='example: %(prog)s query --index INDEX --text "a man in red" --top-k 10',
    )
    commands = parser.add_subparsers(dest="command", required=True)
    index = commands.add_parser("index", help="make an index, or bring it up to date; prints a summary")
    index.add_argument(
        "--photos", type=_photos, action="append", default=[], help="a folder of photos, or its URL; repeatable"
    )
    index.add_argument("--dataset", choices=DATASETS, help="index a split of a data set")
    index.add_argument("--root", type=input_folder, help="with --dataset: its folder")
    index.add_argument("--split", choices=("train", "val", "test"), help="with --dataset: the split (default test)")
    index.add_argument(
        "--remove", type=str, action="append", default=[], help="a folder to remove from the index; repeatable"
    )
    index.add_argument("--checkpoint", type=checkpoint, help="the model; not needed for an existing index")
    index.add_argument("--output", type=output_folder, required=True, help="folder of the index")
    index.add_argument(
        "--shard",
        type=_shard,
        metavar="I/N",
        help="index one of N equal shares of the photos, for `merge`",
    )
    index.add_argument("--to", type=parse_address, metavar="URI", help="push the index into Milvus, too; see `push`")
    index.add_argument("--dtype", choices=DTYPES, help="type of the stored features (default float16)")
    index.add_argument("--config", type=Path, action="append", help="file or name; default: the checkpoint's own")
    add_encoder(index)
    index.add_argument("--engine", choices=("ray",), help="who encodes; default: this process, or those of msrun")
    index.add_argument("--address", help="with --engine ray: HOST:PORT of a cluster; default: this machine")
    index.add_argument("--workers", type=at_least(1), help="with --engine ray: most workers; default: as many as fit")
    index.add_argument("--json", type=output_file(*JSON), help="write the summary as JSON")
    index.add_argument("overrides", nargs="*", metavar="section.key=value", help="change a value of the config")
    _add_query(commands.add_parser("query", help="search an index; prints the ranked photos"))
    approximate = commands.add_parser(
        "approximate", help="build an approximate index for millions of photos; prints its recall"
    )
    approximate.add_argument("--index", required=True, help="folder of the index")
    _add_recall(approximate, 0.95)
    push = commands.add_parser("push", help="bring a collection of Milvus in line with an index; prints a summary")
    given = push.add_mutually_exclusive_group(required=True)
    given.add_argument("--index", help="folder of the index")
    given.add_argument("--forget", metavar="ID", help="delete the photos of an index that is gone; `info` names it")
    push.add_argument(
        "--to",
        type=parse_address,
        required=True,
        metavar="URI",
        help="a file that ends in .db, http://HOST:19530 or https://...; #NAME behind it is the collection (photos)",
    )
    push.add_argument("--kind", choices=KINDS, help="how it is searched (default: as before, exact at first)")
    _add_recall(push, None)
    merge = commands.add_parser("merge", help="make one index of several, such as those of all shards")
    merge.add_argument("indexes", type=Path, nargs="+", metavar="INDEX", help="folder of an index")
    merge.add_argument("--output", type=output_folder, required=True, help="folder of the new index")
    info = commands.add_parser("info", help="print the contents of an index and how it was made, as JSON")
    info.add_argument("--index", required=True, help=_INDEX)
    return parser.parse_args(arguments)


def _add_recall(parser: argparse.ArgumentParser, default: float | None) -> None:
    parser.add_argument("--recall", type=float, default=default, help="fraction of the exact top 10 that must be found")
    parser.add_argument("--queries", type=Path, help="queries to measure the recall with; default: synthetic captions")
    parser.add_argument("--checkpoint", type=checkpoint, help="the model's file, if it has been moved")


def _photos(text: str) -> str:
    """Return a folder that exists, or a URL that may name one."""
    return str(path_of(text) if is_url(text) else input_folder(text))


def _add_query(query: argparse.ArgumentParser) -> None:
    query.add_argument("--index", required=True, help=_INDEX)
    query.add_argument("--text", action="append", default=[], help="a description; several are averaged")
    query.add_argument("--sketch", type=input_file, action="append", default=[], help="a picture; several are averaged")
    query.add_argument("--photo", type=input_file, action="append", default=[], help="a photo; several are averaged")
    query.add_argument(
        "--picture",
        action="append",
        default=[],
        metavar="MODALITY=FILE",
        help="a picture of another modality that the model was trained for, as pencil=drawn.png; repeatable",
    )
    mark = "row or file of an indexed photo that the person looks {} like; repeatable"
    query.add_argument("--more", action="append", default=[], metavar="PHOTO", help=mark.format("more"))
    query.add_argument("--less", action="append", default=[], metavar="PHOTO", help=mark.format("less"))
    query.add_argument(
        "--weight",
        type=float,
        default=0.5,
        help="weight of all pictures, 0 to 1; the text has the rest; 0.5 adds both features as the paper does",
    )
    query.add_argument(
        "--as-is", action="store_true", help="search sketches as they are: blank, light on dark, small, coloured"
    )
    query.add_argument("--queries", type=Path, help="a file of queries: CSV with a header, or one JSON object per line")
    for key, what in (("folder", "in a folder"), ("camera", "of a camera"), ("person", "of a person")):
        query.add_argument(f"--{key}", action="append", default=[], help=f"search only photos {what}; repeatable")
    query.add_argument("--after", default="", metavar="TIME", help="search only photos from a time on, as 2024-05-01")
    query.add_argument("--before", default="", metavar="TIME", help="search only photos up to the end of a time")
    query.add_argument(
        "--fold",
        type=float,
        nargs="?",
        const=FOLD,
        metavar="COSINE",
        help="show a photo only once that is as similar as this to a better one (%(const)s if no number is given)",
    )
    query.add_argument("--top-k", type=at_least(1), default=10, help="photos per query")
    query.add_argument("--approximate", action="store_true", help="search the approximate index")
    add_encoder(query)
    query.add_argument("--checkpoint", type=checkpoint, help="the model's file, if it has been moved")
    query.add_argument("--json", type=output_file(*JSON), help="write the ranked lists as JSON")
    query.add_argument("--csv", type=output_file(".csv", ".txt", ""), help="write the ranked lists as CSV")
    query.add_argument("--figure", type=output_file(*FIGURES), help="draw the ranked lists (PNG, JPEG or PDF)")
    query.add_argument("--heat-map", action="store_true", help="with --figure: show the attention of the model")
    query.add_argument("--sheet", type=output_file(".html", ".htm"), help="write a sheet of the photos to print (HTML)")
    query.add_argument("--zip", type=output_file(".zip"), help="write copies of the photos, with CSV and JSON")
    query.add_argument("overrides", nargs="*", metavar="runtime.key=value", help="such as runtime.device=CPU")


def _shard(text: str) -> object:
    from ms_unireid.apps.search.shards import shard_of

    return shard_of(text)


def main(arguments: Sequence[str]) -> None:
    """Run the job with its command-line arguments."""
    options = _parse(arguments)
    from ms_unireid.commands.search_jobs import JOBS

    JOBS[options.command](options)
