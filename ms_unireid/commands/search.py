"""Search photos by text, sketch or both: `index` a folder of photos, then `query` the index.

python tools/search.py index --photos DIR --checkpoint runs/cuhk/best_average.ckpt --output INDEX
python tools/search.py query --index INDEX --text "a man in a red jacket" --sketch sketch.png --figure found.png
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ms_unireid.apps.arguments import (
    JSON,
    Parser,
    at_least,
    checkpoint,
    input_file,
    input_folder,
    output_file,
    output_folder,
)
from ms_unireid.apps.search.engines.embedded import PhotoIndex
from ms_unireid.apps.search.engines.milvus import KINDS
from ms_unireid.apps.search.engines.milvus_client import parse_address, reach
from ms_unireid.apps.search.engines.opening import open_store
from ms_unireid.apps.search.filters import Filter
from ms_unireid.apps.search.folding import FOLD
from ms_unireid.apps.search.handover import Entry, HandOver
from ms_unireid.apps.search.manifest import DTYPES, present_about
from ms_unireid.apps.search.places import absolute, is_url, path_of
from ms_unireid.apps.search.pushing import Push, choose_effort, forget
from ms_unireid.apps.search.queries import Query, make_query, read_queries, to_csv, to_json, to_table
from ms_unireid.apps.search.shards import merge_indexes, shard_of
from ms_unireid.apps.synthetic.captions import write_caption
from ms_unireid.apps.synthetic.person import draw_people
from ms_unireid.commands.progress import progress_bar
from ms_unireid.data.photo_sets import LISTED, describe_left_out
from ms_unireid.errors import ConfigError, QueryError, escaped
from ms_unireid.files import FIGURES, replacing, write_json, write_text
from ms_unireid.runtime import check_packages

_INDEX = "folder of the index, or its address in Milvus, as `push --to`"
SAMPLE = 100  # number of queries, and of photos, to measure the recall with


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
    index.add_argument("--dataset", choices=LISTED, help="index a split of a data set")
    index.add_argument("--root", type=input_folder, help="with --dataset: its folder")
    index.add_argument("--split", choices=("train", "val", "test"), help="with --dataset: the split (default test)")
    index.add_argument(
        "--remove", type=str, action="append", default=[], help="a folder to remove from the index; repeatable"
    )
    index.add_argument("--checkpoint", type=checkpoint, help="the model; not needed for an existing index")
    index.add_argument("--output", type=output_folder, required=True, help="folder of the index")
    index.add_argument(
        "--shard",
        type=shard_of,
        metavar="I/N",
        help="index one of N equal shares of the photos, for `merge`",
    )
    index.add_argument("--to", type=parse_address, metavar="URI", help="push the index into Milvus, too; see `push`")
    index.add_argument("--dtype", choices=DTYPES, help="type of the stored features (default float16)")
    index.add_argument("--config", type=Path, action="append", help="file or name; default: the checkpoint's own")
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
    push.add_argument("--kind", choices=tuple(KINDS), help="how it is searched (default: as before, exact at first)")
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
    mark = "row or file of an indexed photo that the person looks {} like; repeatable"
    query.add_argument("--more", action="append", default=[], metavar="PHOTO", help=mark.format("more"))
    query.add_argument("--less", action="append", default=[], metavar="PHOTO", help=mark.format("less"))
    query.add_argument(
        "--weight",
        type=float,
        default=0.5,
        help="weight of sketches and photos, 0 to 1; the text has the rest; 0.5 adds both features as the paper does",
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
    query.add_argument("--checkpoint", type=checkpoint, help="the model's file, if it has been moved")
    query.add_argument("--json", type=output_file(*JSON), help="write the ranked lists as JSON")
    query.add_argument("--csv", type=output_file(".csv", ".txt", ""), help="write the ranked lists as CSV")
    query.add_argument("--figure", type=output_file(*FIGURES), help="draw the ranked lists (PNG, JPEG or PDF)")
    query.add_argument("--heat-map", action="store_true", help="with --figure: show the attention of the model")
    query.add_argument("--sheet", type=output_file(".html", ".htm"), help="write a sheet of the photos to print (HTML)")
    query.add_argument("--zip", type=output_file(".zip"), help="write copies of the photos, with CSV and JSON")
    query.add_argument("overrides", nargs="*", metavar="runtime.key=value", help="such as runtime.device=CPU")


def main(arguments: Sequence[str]) -> None:
    """Run the job with its command-line arguments."""
    options = _parse(arguments)
    jobs = {"index": _index, "query": _query, "approximate": _approximate, "push": _push, "merge": _merge}
    {**jobs, "info": _info}[options.command](options)


def _index(options: argparse.Namespace) -> None:
    if options.dataset and not options.root:
        raise ConfigError("--dataset needs --root, the folder of the data set")
    if (options.root or options.split) and not options.dataset:
        raise ConfigError("--root and --split belong to a data set; add --dataset, or leave them out")
    if (options.address or options.workers) and not options.engine:
        raise ConfigError("--address and --workers belong to Ray; add --engine ray, or leave them out")
    if options.engine and "MS_ROLE" in os.environ:
        raise ConfigError("--engine ray starts its own processes; start it without msrun, or leave it out")
    if options.to:
        reach(options.to)
    present_about(options.output, can_make=bool(options.checkpoint and (options.photos or options.dataset)))
    check_packages()
    from ms_unireid.apps.search.indexing import build_index, dataset_source, forget_command, photo_source
    from ms_unireid.apps.search.ray_engine import Cluster

    sources = [photo_source(folder) for folder in options.photos]
    if options.dataset:
        sources.append(dataset_source(options.dataset, options.root, options.split or "test"))
    with progress_bar("photo", "compared") as compared, progress_bar("photo", "encoded") as encoded:
        report = build_index(
            options.output,
            sources,
            options.checkpoint,
            dtype=options.dtype,
            removed=options.remove,
            files=options.config,
            overrides=options.overrides,
            progress=lambda step, *counts: {"compared": compared, "encoded": encoded}[step](*counts),
            shard=options.shard,
            cluster=Cluster(options.address, options.workers) if options.engine else None,
        )
    if report is None:  # another process than the first one of msrun
        return
    for folder, count in report.unreachable.items():
        print(
            f"warning: {folder}: is out of reach, and its {count} photos stay in the index; if they are gone for good, "
            f"forget them with {forget_command(options.output, folder)}",
            file=sys.stderr,
        )
    left_out = describe_left_out(report.left_out)
    summary = {"index": str(options.output), **dataclasses.asdict(report), "left_out": left_out}
    if options.to:
        with progress_bar("photo", "pushed") as show:
            summary["pushed"] = Push(PhotoIndex(options.output), options.to).run(show)
    _print_json(summary)
    if options.json:
        write_json(options.json, summary)


def _query(options: argparse.Namespace) -> None:
    if options.heat_map and not options.figure:
        raise ConfigError("--heat-map needs a picture to be drawn in; add --figure FILE")
    queries, where = _queries(options), _filter(options)
    index = open_store(options.index, options.approximate)  # before MindSpore is imported, which takes seconds
    index.checkpoint(options.checkpoint)
    if where:
        index.chosen(where)
    check_packages()
    from ms_unireid.apps.search.searcher import Searcher

    searcher = Searcher.open(index, options.checkpoint, options.overrides)
    found = searcher.search_all(queries, options.top_k, where, options.fold)
    notes = [searcher.notes(query) for query in queries]
    lines = [
        note if note in searcher.index.notes else f"{escaped(query.name)}{': ' * bool(query.name)}{note}"
        for query, told in zip(queries, notes, strict=True)
        for note in told
    ]
    for line in dict.fromkeys(lines):
        print(f"note: {line}", file=sys.stderr)
    print(to_table(queries, found))
    if options.json:
        listed = to_json(queries, found, notes)
        how = {"filter": dataclasses.asdict(where), "fold": options.fold, "index": searcher.index.state}
        write_json(options.json, [{**one, **how} for one in listed])
    if options.csv:
        write_text(options.csv, to_csv(queries, found))
    if options.figure:
        from ms_unireid.apps.search.search_figure import draw_search

        for told in draw_search(searcher, queries, found, options.figure, heat_map=options.heat_map):
            print(f"warning: {told}", file=sys.stderr)
    found_by = zip(queries, found, strict=True)
    entries = tuple(Entry(query.name or str(query), hit) for query, hits in found_by for hit in hits)
    handed = HandOver(searcher.index, entries)
    if options.sheet:
        write_text(options.sheet, handed.to_sheet())
    if options.zip:
        with replacing(options.zip) as temporary, temporary.open("wb") as file:
            missing = handed.write_zip(file)
        for told in missing:
            print(f"warning: not in {options.zip}: {told}", file=sys.stderr)


def _queries(options: argparse.Namespace) -> list[Query]:
    if not options.queries:
        more, less = ([_mark(one) for one in given] for given in (options.more, options.less))
        return [
            make_query(
                options.text, options.sketch, options.photo, options.weight, as_is=options.as_is, more=more, less=less
            )
        ]
    if any((options.text, options.sketch, options.photo, options.more, options.less, options.weight != 0.5)):
        raise ConfigError(
            "--queries is a file of all queries; leave out --text, --sketch, --photo, --more, --less and --weight"
        )
    return [dataclasses.replace(query, as_is=options.as_is) for query in _read_queries(options.queries)]


def _mark(text: str) -> int | str:
    return int(text) if text.isdecimal() and len(text) < 20 else text  # a file that has a number as its name: ./7


def _filter(options: argparse.Namespace) -> Filter:
    folders = tuple(absolute(folder) for folder in options.folder)
    return Filter(folders, tuple(options.camera), tuple(options.person), options.after, options.before)


def _read_queries(path: Path) -> list[Query]:
    queries = read_queries(path)
    for query in queries:
        for picture in query.sketches + query.photos:
            if not picture.is_file():
                raise QueryError(f"{path}: {query.name}: {picture}: does not exist; paths are relative to the file")
    return queries


def _approximate(options: argparse.Namespace) -> None:
    from ms_unireid.apps.search.engines.faiss import build_approximate

    _check_recall(options.recall)
    queries = _measuring_queries(options)
    index = PhotoIndex(Path(options.index))
    _print_json(build_approximate(index, _encoded(queries, index, options), options.recall))


def _push(options: argparse.Namespace) -> None:
    if options.recall is not None:
        _check_recall(options.recall)
        if options.kind in (None, "exact"):
            raise ConfigError(f"--recall {options.recall}: belongs to an approximate search; add --kind hnsw")
    if options.forget is not None:
        _print_json(forget(options.to, options.forget))
        return
    queries = None if options.recall is None else _measuring_queries(options)
    index = PhotoIndex(Path(options.index))
    encoded = None if queries is None else _encoded(queries, index, options)
    push = Push(index, options.to, options.kind)
    with progress_bar("photo", "pushed") as show:
        summary = push.run(show)
    _print_json(summary if encoded is None else {**summary, **choose_effort(push, encoded, options.recall)})


def _check_recall(recall: float) -> None:
    if not 0 < recall <= 1:
        raise ConfigError(f"--recall {recall}: expected more than 0, at most 1")


def _measuring_queries(options: argparse.Namespace) -> list[Query]:
    if options.queries:
        return _read_queries(options.queries)
    rng = np.random.default_rng(1)
    return [make_query(write_caption(rng, person)) for person in draw_people(SAMPLE, seed=1)]


def _encoded(queries: list[Query], index: PhotoIndex, options: argparse.Namespace) -> dict[str, np.ndarray]:
    """Encode the queries that the recall is measured with; those of photos are features of the index."""
    index.checkpoint(options.checkpoint)
    check_packages()
    from ms_unireid.apps.search.engines.faiss import sample_photos
    from ms_unireid.apps.search.searcher import Searcher

    searcher = Searcher.open(index, options.checkpoint)
    feats = []
    with progress_bar("query", "encoding") as show:
        for query in queries:
            feats.append(searcher.encode(query))
            show(len(feats), len(queries))
    return {"queries": np.stack(feats), "photos": sample_photos(index, SAMPLE)}


def _merge(options: argparse.Namespace) -> None:
    with progress_bar("photo", "merged") as show:
        report = merge_indexes(options.indexes, options.output, show)
    _print_json({"index": str(options.output), **report})


def _info(options: argparse.Namespace) -> None:
    _print_json(open_store(options.index).describe())


def _print_json(value: dict) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))
