"""The jobs of `search`: index, query, approximate, push, merge and info, with the options that were read."""

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path

import numpy as np

from ms_unireid.apps.arguments import encoder_overrides
from ms_unireid.apps.search.engines.embedded import PhotoIndex
from ms_unireid.apps.search.engines.milvus_client import reach
from ms_unireid.apps.search.engines.opening import open_store
from ms_unireid.apps.search.filters import Filter
from ms_unireid.apps.search.handover import Entry, HandOver
from ms_unireid.apps.search.manifest import present_about
from ms_unireid.apps.search.places import absolute
from ms_unireid.apps.search.pushing import Push, choose_effort, forget
from ms_unireid.apps.search.queries import Query, make_query, parse_pictures, read_queries, to_csv, to_json, to_table
from ms_unireid.apps.search.query_checks import check_modalities, check_pictures
from ms_unireid.apps.search.searcher import COMPILED, Searcher
from ms_unireid.apps.search.shards import merge_indexes
from ms_unireid.apps.synthetic.captions import write_caption
from ms_unireid.apps.synthetic.person import draw_people
from ms_unireid.checkpoints.recognition import open_source
from ms_unireid.commands.progress import progress_bar
from ms_unireid.data.photo_sets import describe_left_out
from ms_unireid.errors import ConfigError, QueryError, escaped
from ms_unireid.files import replacing, write_json, write_text
from ms_unireid.modalities import pictures_of
from ms_unireid.runtime import check_packages

_WORTH_COMPILING = 64  # queries, from which on compiling the model is faster: see Searcher.open
SAMPLE = 100  # number of queries, and of photos, to measure the recall with


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
            overrides=[*encoder_overrides(options), *options.overrides],
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
    model = index.checkpoint(options.checkpoint)
    if where:
        index.chosen(where)
    if any(query.others for query in queries):
        known = pictures_of(open_source(model).config().objective.tasks)
        for query in queries:
            check_modalities(query, known)
    compiled = [COMPILED] * (len(queries) >= _WORTH_COMPILING)
    if not compiled:
        for query in queries:
            check_pictures(query, index.about)
    searcher = Searcher.open(index, options.checkpoint, [*compiled, *encoder_overrides(options), *options.overrides])
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
        how = {"more": more, "less": less, "as_is": options.as_is, "pictures": parse_pictures(options.picture)}
        query = make_query(options.text, options.sketch, options.photo, options.weight, **how)
        for picture in query.pictures:
            if not picture.is_file():
                raise QueryError(f"--picture {picture}: does not exist; give MODALITY=FILE")
        return [query]
    asked = (options.text, options.sketch, options.photo, options.picture, options.more, options.less)
    if any((*asked, options.weight != 0.5)):
        raise ConfigError(
            "--queries is a file of all queries; leave out --text, --sketch, --photo, --picture, --more, --less and "
            "--weight"
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
        for picture in query.pictures:
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
    from ms_unireid.apps.search.engines.faiss import sample_photos

    searcher = Searcher.open(index, options.checkpoint, [COMPILED])
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


JOBS = {
    "index": _index,
    "query": _query,
    "approximate": _approximate,
    "push": _push,
    "merge": _merge,
    "info": _info,
}
