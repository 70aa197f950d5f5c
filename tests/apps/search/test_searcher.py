"""Search with a real tiny model, compared with rankings computed from its features."""

import contextlib
import functools
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from apps.search.index_factory import colour_of, put_photo, put_photos
from mindspore import Tensor
from PIL import Image, ImageOps

import ms_unireid as mu
from ms_unireid.apps.search.engines.embedded import PhotoIndex
from ms_unireid.apps.search.engines.faiss import build_approximate, sample_photos
from ms_unireid.apps.search.filters import Filter
from ms_unireid.apps.search.indexing import build_index, photo_source
from ms_unireid.apps.search.queries import make_query, to_csv, to_json, to_table
from ms_unireid.apps.search.rollout import attention_rollout
from ms_unireid.apps.search.search_figure import draw_search, heat_picture
from ms_unireid.apps.search.searcher import Searcher
from ms_unireid.checkpoints.checkpoint import save_checkpoint
from ms_unireid.checkpoints.thresholds import Thresholds, thresholds_file, write_thresholds
from ms_unireid.config import load_config, to_dict
from ms_unireid.data.pictures import FORMATS, load_picture
from ms_unireid.data.transforms import evaluation_transform
from ms_unireid.errors import CheckpointError, ConfigError, DataError, QueryError, UserError
from ms_unireid.models.unireid import UNIReID, build_model

OVERRIDES = [
    "model.architecture=tiny",
    "model.image_size=[32, 16]",
    "model.context_length=24",
    "eval.batch_size=4",
    "runtime.device=CPU",
    "runtime.graph_mode=false",
]
CONFIG = load_config(None, OVERRIDES)
TEXTS = ("a man in red", "a woman with a bag")


def save(path: Path, seed: int = 1) -> Path:
    save_checkpoint(path, build_model(CONFIG.model, seed).get_parameters(), {"config": to_dict(CONFIG)})
    return path


@pytest.fixture(scope="module", autouse=True)
def execution_mode():
    """Restore the mode that opening a checkpoint sets."""
    before = ms.get_context("mode")
    yield
    ms.set_context(mode=before)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Make a checkpoint, photos and their index."""
    folder = tmp_path_factory.mktemp("search")
    put_photos(folder / "photos", range(9))
    for number, path in enumerate(sorted((folder / "photos").iterdir())):
        picture = load_picture(path)
        picture.paste((0, 0, 0), (0, 0, 3 + number % 7, 4 + number))
        picture.save(path)
    build_index(folder / "index", [photo_source(folder / "photos")], save(folder / "model.ckpt"), dtype="float32")
    return folder


@pytest.fixture(scope="module")
def searcher(made) -> Searcher:
    return Searcher.open(made / "index")


@pytest.fixture(scope="module")
def model() -> UNIReID:
    return build_model(CONFIG.model, 1)


def photo(made: Path, number: int) -> Path:
    return made / "photos" / f"{number:03d}.png"


@functools.cache
def image_feature(model: UNIReID, path: Path) -> np.ndarray:
    pixels = evaluation_transform(load_picture(path), CONFIG.model.image_size)
    return model.encode_image(Tensor(pixels[None])).asnumpy()[0]


@functools.cache
def text_feature(model: UNIReID, text: str) -> np.ndarray:
    return model.encode_text(Tensor(mu.Tokenizer(24)([text]))).asnumpy()[0]


def ranking(model: UNIReID, made: Path, query: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Rank the photos by cosine similarity, from the model alone."""
    paths = sorted((made / "photos").iterdir())
    feats = np.stack([image_feature(model, path) for path in paths])
    scores = feats @ query / np.linalg.norm(feats, axis=1) / np.linalg.norm(query)
    order = np.argsort(-scores, kind="stable")
    return [paths[row].name for row in order], scores[order]


def assert_ranked(hits, expected: tuple[list[str], np.ndarray]) -> None:
    names, scores = expected
    np.testing.assert_allclose([hit.score for hit in hits], scores[: len(hits)], atol=2e-5)
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    if np.diff(scores).max() < -1e-4:
        assert [hit.path.name for hit in hits] == names[: len(hits)]


@pytest.mark.parametrize("weight", [0.0, 0.25, 0.5, 1.0])
def test_text_and_sketch_are_weighted_features(searcher, model, made, weight):
    sketch = photo(made, 4)
    query = 2 * weight * image_feature(model, sketch) + 2 * (1 - weight) * text_feature(model, TEXTS[0])
    assert_ranked(searcher.search(TEXTS[0], sketch, weight=weight, top_k=9), ranking(model, made, query))


def test_the_default_is_the_sum_of_the_paper(searcher, model, made):
    fused = model.fuse(
        Tensor(image_feature(model, photo(made, 2))[None]), Tensor(text_feature(model, TEXTS[1])[None])
    ).asnumpy()[0]
    assert_ranked(searcher.search(TEXTS[1], str(photo(made, 2)), top_k=9), ranking(model, made, fused))


def test_several_of_a_kind_are_averaged(searcher, model, made):
    text = np.mean([text_feature(model, one) for one in TEXTS], axis=0)
    assert_ranked(searcher.search(list(TEXTS), top_k=9), ranking(model, made, text))
    sketches = [photo(made, 1), photo(made, 7)]
    sketch = np.mean([image_feature(model, one) for one in sketches], axis=0)
    assert_ranked(searcher.search(sketch=sketches, top_k=9), ranking(model, made, sketch))


def unit(feat: np.ndarray) -> np.ndarray:
    return feat / np.linalg.norm(feat)


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 1.0])
def test_a_photo_counts_with_the_mean_length_of_the_other_features(searcher, model, made, weight):
    sketch, text = image_feature(model, photo(made, 1)), text_feature(model, TEXTS[0])
    length = (np.linalg.norm(sketch) + np.linalg.norm(text)) / 2
    pictures = (sketch + length * unit(image_feature(model, photo(made, 4)))) / 2
    expected = ranking(model, made, weight * pictures + (1 - weight) * text)
    row = searcher.index.row(photo(made, 4))
    for one in (photo(made, 4), load_picture(photo(made, 4)), row):
        hits = searcher.search(TEXTS[0], photo(made, 1), one, weight, 9, include_self=True)
        assert_ranked(hits, expected)
    left = searcher.search(TEXTS[0], photo(made, 1), row, weight, 9)
    assert [hit.row for hit in left] == [hit.row for hit in hits if hit.row != row]


def test_photos_are_averaged_and_left_out(searcher, model, made):
    mean = unit(image_feature(model, photo(made, 1))) + unit(image_feature(model, photo(made, 6)))
    assert_ranked(searcher.search(photo=[1, photo(made, 6)], top_k=9, include_self=True), ranking(model, made, mean))
    assert {hit.row for hit in searcher.search("a man", photo=[1, 6], top_k=9)} == set(range(9)) - {1, 6}
    assert len(searcher.search(photo=[1, 6], top_k=2)) == 2


def test_marks_move_the_query_as_rocchio_says(searcher, model, made):
    text = unit(text_feature(model, TEXTS[0]))
    feats = {number: unit(image_feature(model, photo(made, number))) for number in range(9)}
    marked = text + 0.75 * (feats[2] + feats[5]) / 2 - 0.15 * feats[7]
    hits = searcher.search(TEXTS[0], more=[2, photo(made, 5)], less=7, top_k=9)
    assert_ranked(hits, ranking(model, made, marked))
    np.testing.assert_allclose(searcher.encode(make_query(TEXTS[0], more=[2, 5], less=7)), marked, atol=1e-5)
    assert_ranked(searcher.search(more=3, top_k=9), ranking(model, made, feats[3]))
    alone = searcher.search(more=3, less=(4, 5), top_k=9)
    assert_ranked(alone, ranking(model, made, 0.75 * feats[3] - 0.15 * (feats[4] + feats[5]) / 2))
    assert searcher.notes(make_query(more=3)) == []
    for bad in (99, photo(made, 99)):
        with pytest.raises(QueryError, match="9 photos"):
            searcher.search("a man", more=bad)


def test_a_photo_finds_itself(searcher, made):
    for number in range(9):
        path = photo(made, number)
        row = searcher.index.photos.index(path)
        for query in (path, str(path), row, load_picture(path)):
            first = searcher.search(photo=query, top_k=1, include_self=True)[0]
            assert (first.path, first.row) == (path, row) and 1 - 1e-5 < first.score <= 1


def test_a_row_is_left_out_of_its_own_search(searcher):
    hits = searcher.search(photo=4, top_k=9)
    assert {hit.row for hit in hits} == set(range(9)) - {4} and [hit.rank for hit in hits] == list(range(1, 9))
    assert searcher.search(photo=4, top_k=3) == hits[:3]


def test_top_k_larger_than_the_index(searcher):
    assert len(searcher.search("a man", top_k=10**30)) == 9


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"text": "a man", "top_k": 0}, "top_k"),
        ({"photo": 9}, "has 9 photos"),
        ({"photo": -1}, "has 9 photos"),
        ({"sketch": "absent.png"}, "does not exist"),
        ({}, "nothing to search for"),
    ],
)
def test_bad_queries(searcher, given, message):
    with pytest.raises(QueryError, match=message):
        searcher.search(**given)


def test_long_and_strange_texts(searcher):
    for text in ("red " * 2500, "🧍‍♂️🟥", "a\x00b", "<b>'; DROP TABLE photos; --</b>", "ß" * 10_000):
        assert len(searcher.search(text, top_k=3)) == 3


def test_notes_say_what_of_a_text_the_model_does_not_read(searcher):
    (cut,) = searcher.notes(make_query(["red " * 30, "a man"]))
    assert "reads the first 22 tokens" in cut and searcher.notes(make_query(photo=1)) == []


def test_concurrent_threads_get_their_own_results(searcher, made):
    paths = [photo(made, number % 9) for number in range(40)]
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda path: searcher.search(sketch=path, top_k=1)[0].path, paths))
    assert found == paths


def test_search_all_answers_each_as_search_does(searcher, made):
    queries = [make_query(TEXTS[0]), make_query(sketch=photo(made, 3)), make_query(photo=2)]
    together = searcher.search_all(queries, 4)
    alone = [searcher.search(TEXTS[0], top_k=4), searcher.search(sketch=photo(made, 3), top_k=4)]
    assert [[h.row for h in hits] for hits in together[:2]] == [[h.row for h in hits] for hits in alone]
    assert searcher.search_all([], 4) == []


def test_the_package_exports_searcher_and_index(made, model):
    assert mu.Searcher(model, made / "index").search("a man in red", top_k=2)[0].rank == 1
    assert mu.PhotoIndex(made / "index").count == 9


def test_another_checkpoint_is_refused(made, tmp_path):
    with pytest.raises(CheckpointError, match="is not the checkpoint"):
        Searcher.open(made / "index", save(tmp_path / "other.ckpt", seed=2))
    moved = shutil.copy(made / "model.ckpt", tmp_path / "moved.ckpt")
    assert Searcher.open(made / "index", moved).index.count == 9
    with pytest.raises(CheckpointError, match="does not exist"):
        Searcher.open(made / "index", tmp_path / "absent.ckpt")
    with pytest.raises(DataError, match="made with another checkpoint"):
        build_index(made / "index", checkpoint=tmp_path / "other.ckpt")


def test_a_new_index_needs_a_checkpoint_and_photos(made, tmp_path):
    with pytest.raises(ConfigError, match="a new index needs"):
        build_index(tmp_path / "index", [photo_source(made / "photos")])
    with pytest.raises(ConfigError, match="a new index needs"):
        build_index(tmp_path / "index", checkpoint=made / "model.ckpt")


def drawn(mode: str) -> Image.Image:
    """Draw a picture of 16x32 pixels, another one for each mode."""
    rng = np.random.default_rng(list(mode.encode()))
    values = rng.integers(0, 65536, (8, 4)).repeat(4, 0).repeat(4, 1)
    if mode.startswith("I"):
        return Image.fromarray(values.astype({"I": np.int32, "I;16": np.uint16, "I;16B": ">u2"}[mode]))
    colours = Image.fromarray(rng.integers(0, 256, (8, 4, 4), dtype=np.uint8).repeat(4, 0).repeat(4, 1))
    return (colours.quantize(256) if mode[0] == "P" else colours).convert(mode)


def put_every_kind(folder: Path) -> None:
    """Write photos in every format and mode that Pillow writes and the index takes; one of each format is lying."""
    folder.mkdir()
    tag = Image.Exif()
    tag[0x0112] = 6
    for format in (*FORMATS, "MPO"):
        with contextlib.suppress(OSError):
            drawn("RGB").save(folder / f"lying.{format.lower()}", format, exif=tag)
        for mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "I;16", "I;16B", "I"):
            path = folder / f"{mode.replace(';', '')}.{format.lower()}"
            if mode[0] == "I" and format not in ("PNG", "TIFF", "PPM"):
                continue  # Pillow cuts the values
            try:
                drawn(mode).save(path, format)
            except (OSError, ValueError):
                path.unlink(missing_ok=True)


def test_every_kind_of_photo_finds_itself(made, tmp_path):
    """Takes 5 s: about 70 files."""
    put_every_kind(tmp_path / "photos")
    report = build_index(tmp_path / "index", [photo_source(tmp_path / "photos")], made / "model.ckpt", dtype="float32")
    assert report.photos > 60 and not report.skipped and not report.damaged
    searcher = Searcher.open(tmp_path / "index")
    photos = searcher.index.photos
    for path, hits in zip(photos, searcher.search_all([make_query(photo=path) for path in photos], 1), strict=True):
        assert hits[0].score == pytest.approx(1, abs=1e-5), path
        same = np.abs(np.asarray(load_picture(hits[0].path), int) - np.asarray(load_picture(path), int)).max()
        assert hits[0].path == path or same < 30, (path, hits[0].path)


def test_figure_with_and_without_heat_maps(searcher, made, tmp_path):
    queries = [make_query(TEXTS[0], photo(made, 1)), make_query(photo=2)]
    found = searcher.search_all(queries, 3)
    for name, heat in (("plain.png", False), ("heat.png", True)):
        draw_search(searcher, queries, found, tmp_path / name, heat)
    for name, start in (("a.JPG", b"\xff\xd8"), ("a.pdf", b"%PDF")):
        draw_search(searcher, queries, found, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
    for name in ("a.svg", "a"):
        with pytest.raises(UserError, match=r"expected a name that ends in \.png"):
            draw_search(searcher, queries, found, tmp_path / name)
    with Image.open(tmp_path / "plain.png") as plain, Image.open(tmp_path / "heat.png") as heat:
        assert plain.size == heat.size and np.asarray(plain).shape[2] == 3
        assert (np.asarray(plain) != np.asarray(heat)).any()
    shown = heat_picture(searcher, photo(made, 0))
    assert shown.size == load_picture(photo(made, 0)).size
    missing = made / "photos" / "gone.png"
    with pytest.raises(DataError, match=r"gone\.png"):
        heat_picture(searcher, missing)


def test_figure_with_a_photo_that_is_changed_and_one_that_is_missing(made, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(made / "photos", folder)
    build_index(tmp_path / "index", [photo_source(folder)], made / "model.ckpt")
    searcher, queries = Searcher.open(tmp_path / "index"), [make_query(photo=0, include_self=True)]
    found = searcher.search_all(queries, 9)
    assert draw_search(searcher, queries, found, tmp_path / "before.png") == []
    Image.new("RGB", (30, 90), "red").save(folder / "001.png")
    (folder / "002.png").unlink()
    for heat in (True, False):
        told = draw_search(searcher, queries, found, tmp_path / "after.png", heat)
        assert sorted(Path(one.split(": ")[0]).name for one in told) == ["001.png", "002.png"]
        assert {"changed since indexing" in one or "missing" in one for one in told} == {True}
        assert all("index" in one.split(";")[1] for one in told)
    with Image.open(tmp_path / "after.png") as after:
        assert not (np.asarray(after.convert("RGB")) == (255, 0, 0)).all(axis=2).any()


def test_sketches_are_put_right_and_told_unless_taken_as_they_are(searcher, model, tmp_path):
    plain, light, blank = (tmp_path / name for name in ("plain.png", "light.png", "blank.png"))
    Image.new("L", (64, 192), 255).save(blank)
    with Image.open(blank) as sheet:
        sheet.paste(0, (16, 20, 48, 180))
        sheet.paste(255, (22, 26, 42, 174))
        sheet.save(plain)
        ImageOps.invert(sheet).save(light)
    expected, as_is = image_feature(model, plain), image_feature(model, light)
    np.testing.assert_allclose(searcher.encode(make_query(sketch=plain)), expected, atol=1e-5)
    np.testing.assert_allclose(searcher.encode(make_query(sketch=light)), expected, atol=1e-5)
    np.testing.assert_allclose(searcher.encode(make_query(sketch=light, as_is=True)), as_is, atol=1e-5)
    assert searcher.notes(make_query(sketch=plain)) == searcher.notes(make_query(sketch=light, as_is=True)) == []
    (note,) = searcher.notes(make_query(sketch=light))
    assert str(light) in note and "inverted" in note
    with pytest.raises(QueryError, match=r"blank\.png: nothing is drawn"):
        searcher.search("a man", blank)
    assert searcher.search("a man", blank, as_is=True)


def test_rollout_against_its_definition(model):
    """One block at a time from the class token, in float64, with the attention of a literal softmax."""
    rng = np.random.default_rng(3)
    images = rng.standard_normal((2, 3, 32, 16)).astype(np.float32)
    visual = model.base_model.visual
    found = attention_rollout(visual, Tensor(images))
    assert found.shape == (2, 4, 2)
    np.testing.assert_allclose(found.sum(axis=(1, 2)), 1, atol=1e-6)
    x = visual.embed(Tensor(images))
    for picture in range(2):
        flow, tokens = np.eye(9), x
        for block in visual.transformer.resblocks:
            normed = block.ln_1(tokens).asnumpy()[picture].astype(np.float64)
            weight, bias = (
                p.asnumpy().astype(np.float64) for p in (block.attn.in_proj_weight, block.attn.in_proj_bias)
            )
            q, k, _ = np.split(normed @ weight.T + bias, 3, axis=1)
            heads = [slice(h * 32, (h + 1) * 32) for h in range(2)]
            scores = [np.exp(q[:, h] @ k[:, h].T / np.sqrt(32)) for h in heads]
            attention = np.mean([s / s.sum(axis=1, keepdims=True) for s in scores], axis=0)
            flow = (attention / 2 + np.eye(9) / 2) @ flow
            if block is not visual.transformer.resblocks[-1]:  # whose output is not used
                tokens = block(tokens)
        expected = flow[0, 1:] / flow[0, 1:].sum()
        np.testing.assert_allclose(found[picture].reshape(-1), expected, atol=1e-5)


def test_reports_agree(searcher, made):
    queries = [make_query(TEXTS[0], photo(made, 1), weight=0.3, name="x"), make_query(photo=2)]
    found = searcher.search_all(queries, 2)
    listed = to_json(queries, found, [["cut"], []])
    assert listed[0]["text"] == [TEXTS[0]] and listed[0]["weight"] == 0.3 and listed[1]["photo"] == "2"
    assert [one["notes"] for one in listed] == [["cut"], []]
    assert [hit["rank"] for hit in listed[0]["hits"]] == [1, 2]
    table = to_csv(queries, found).splitlines()
    assert table[0] == "query,rank,score,photo,person,row,taken,camera,same" and len(table) == 5
    assert all(str(hit.path) in to_table(queries, found) for hits in found for hit in hits)


@pytest.fixture(scope="module")
def sorted_photos(made, tmp_path_factory) -> Path:
    """Make an index of photos with cameras and times, some of them copies, with an approximate index."""
    folder = tmp_path_factory.mktemp("sorted")
    for number, name in enumerate(("a_c1_", "a_c2_", "b_c1_", "b_c2_", "c", "d")):
        shutil.copy(
            photo(made, number), put_photo(folder / "photos" / f"{name}2024050{number + 1}120000.png", (0, 0, 0))
        )
    for number in range(3):
        shutil.copy(photo(made, 2), folder / "photos" / f"z{number}.png")
    build_index(folder / "index", [photo_source(folder / "photos")], made / "model.ckpt")
    index = PhotoIndex(folder / "index")
    build_approximate(index, {"photos": sample_photos(index, 5)})
    return folder / "index"


@pytest.mark.parametrize("approximate", [False, True])
def test_a_filter_gives_the_best_that_pass(sorted_photos, approximate):
    searcher = Searcher.open(sorted_photos, approximate=approximate)
    every = searcher.search(TEXTS[0], top_k=9)
    where = Filter(cameras=("1", "2"), after="2024-05-02", before="2024-05-03")
    hits = searcher.search(TEXTS[0], top_k=5, where=where)
    expected = [hit for hit in every if hit.row in searcher.index.passing(where)]
    assert [hit.row for hit in hits] == [hit.row for hit in expected] and [hit.rank for hit in hits] == [1, 2]
    assert {(hit.camera, hit.taken) for hit in hits} == {("2", "2024-05-02T12:00:00"), ("1", "2024-05-03T12:00:00")}
    assert searcher.search(TEXTS[0], top_k=9, where=Filter()) == every
    assert searcher.search(photo=1, where=Filter(cameras=("2",)))[0].row == 3  # the photo itself is left out


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (Filter(cameras=("9", "8")), "no photo passes the filter by camera; the index has 1, 2$"),
        (Filter(persons=("5",)), "by person; the index has no known person"),
        (Filter(folders=("/absent",)), "by folder; the index has .*photos"),
        (Filter(after="2025-01-01"), "by time; the index has 2024-05-01T12:00:00 to 2024-05-06T12:00:00"),
        (
            Filter(cameras=("1",), before="2024-05-02", after="2024-05-02"),
            r"no photo passes the whole filter \(2 by camera, 1 by time\); leave out a part",
        ),
    ],
)
def test_a_filter_that_no_photo_passes_is_told(sorted_photos, made, model, where, message):
    with pytest.raises(QueryError, match=message):
        Searcher(model, sorted_photos).search("a man", where=where)


@pytest.mark.parametrize("approximate", [False, True])
def test_copies_are_folded(sorted_photos, approximate):
    searcher = Searcher.open(sorted_photos, approximate=approximate)
    copies = {row for row in range(9) if searcher.index.path(row).name.startswith(("b_c1_", "z"))}
    for fold in (1.0, 0.99999):
        hits = searcher.search(TEXTS[0], top_k=9, fold=fold)
        assert len(hits) == 6 and [hit.rank for hit in hits] == list(range(1, 7))
        (card,) = [hit for hit in hits if hit.same]
        assert {card.row, *card.same} == copies and (approximate or card.row == min(copies))
    assert [hit.row for hit in searcher.search(TEXTS[0], top_k=2, fold=1.0)] == [hit.row for hit in hits[:2]]
    others = searcher.search(photo=min(copies), top_k=9, fold=1.0)
    assert min(copies) not in {row for hit in others for row in (hit.row, *hit.same)} and len(others) == 6
    where = Filter(folders=(str(searcher.index.path(0).parent),), before="2024-05-03")
    assert len(searcher.search(TEXTS[0], top_k=9, fold=1.0, where=where)) == 3
    for bad in (0, -0.5, 1.5, float("nan")):
        with pytest.raises(QueryError, match="fold"):
            searcher.search(TEXTS[0], fold=bad)


def test_a_folded_list_has_an_end(searcher, monkeypatch):
    monkeypatch.setattr("ms_unireid.apps.search.searcher.MAX_FOLDED", 8)
    with pytest.raises(QueryError, match="at most 8 when photos are folded"):
        searcher.search("a man", top_k=10**30, fold=1.0)
    assert len(searcher.search("a man", top_k=8, fold=1.0)) == 8


def test_the_photos_have_different_colours():
    assert len({colour_of(number) for number in range(300)}) == 300


def test_a_changed_index_is_opened_again(made, model, tmp_path):
    """The page asks before each query. It takes about two seconds."""
    shutil.copytree(made / "photos", tmp_path / "photos")
    index, source = tmp_path / "index", [photo_source(tmp_path / "photos")]
    build_index(index, source, made / "model.ckpt", dtype="float32")
    searcher = Searcher(model, index)
    assert not searcher.refresh() and searcher.index.count == 9
    first = tmp_path / "photos" / "000.png"
    shutil.copy(first, tmp_path / "photos" / "a_new_one.png")
    first.unlink()
    build_index(index, source, made / "model.ckpt", dtype="float32")
    assert searcher.has_changed() and searcher.refresh() and not searcher.refresh() and not searcher.has_changed()
    assert first not in searcher.index.photos
    assert searcher.search(photo=tmp_path / "photos" / "a_new_one.png")[0].path.name == "a_new_one.png"
    shutil.rmtree(index)
    build_index(index, source, save(tmp_path / "other.ckpt", 2), dtype="float32")
    with pytest.raises(DataError, match="another model has made it"):
        searcher.refresh()
    shutil.rmtree(index)
    with pytest.raises(DataError, match="is not an index"):
        searcher.refresh()
    assert len(searcher.search(text=TEXTS[0])) == 9, "the earlier state is still searched"


@pytest.fixture(scope="module")
def many(made) -> Searcher:
    """Return a searcher of a model that was trained for colour pencil and thermal pictures, too."""
    trained = replace(
        CONFIG,
        data=replace(CONFIG.data, modalities=("sketch", "thermal", "pencil")),
        objective=replace(CONFIG.objective, tasks=("text", "sketch", "pencil", "text+thermal")),
    )
    save_checkpoint(made / "many.ckpt", build_model(CONFIG.model, 1).get_parameters(), {"config": to_dict(trained)})
    build_index(made / "many", [photo_source(made / "photos")], made / "many.ckpt", dtype="float32")
    return Searcher.open(made / "many")


def test_modalities_are_added(many, model, made):
    assert many.modalities == ("sketch", "pencil", "thermal")
    sketch, pencil, thermal, more = (photo(made, number) for number in (1, 4, 7, 2))
    mean = (image_feature(model, thermal) + image_feature(model, more)) / 2
    pictures = image_feature(model, sketch) + image_feature(model, pencil) + mean
    query = 2 * 0.7 * pictures + 2 * 0.3 * text_feature(model, TEXTS[0])
    given = {"pencil": str(pencil), "thermal": [thermal, more]}
    found = many.search(TEXTS[0], sketch, weight=0.7, top_k=9, as_is=True, pictures=given)
    assert_ranked(found, ranking(model, made, query))
    alone = many.search(pictures={"pencil": pencil}, top_k=9)
    assert_ranked(alone, ranking(model, made, image_feature(model, pencil)))


def test_what_a_model_was_not_trained_for_is_refused(searcher, many, made):
    with pytest.raises(QueryError, match="picture pencil: the model was trained for text, sketch; ask with some of"):
        searcher.search(TEXTS[0], pictures={"pencil": photo(made, 1)})
    with pytest.raises(QueryError, match="picture infrared: the model was trained for text, sketch, pencil, thermal;"):
        many.search_all([make_query("a man"), make_query(pictures={"infrared": photo(made, 1)})])


def test_a_query_of_modalities_is_drawn_and_has_thresholds(many, made, tmp_path):
    task = {"threshold": 1.0, "per_doubling": 0.0, "photos": 9, "queries": 9}
    about = many.index.about
    facts = about["checkpoint"]["sha256"], about["model"], 0.05, "d", "val"
    write_thresholds(made / "many.ckpt", Thresholds(*facts, {"text+pencil": task}))
    many.renew_thresholds()
    query = make_query(TEXTS[0], pictures={"pencil": photo(made, 3)})
    (found,) = many.search_all([query])
    assert found[0].threshold == 1.0 and "(text+pencil among 9 photos" in many.notes(query)[-1]
    assert many.search(pictures={"thermal": photo(made, 3)})[0].threshold is None
    assert draw_search(many, [query], [found], tmp_path / "f.png") == []
    assert to_json([query], [found], [[]])[0]["pictures"] == {"pencil": [str(photo(made, 3))]}
    thresholds_file(made / "many.ckpt").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        many.renew_thresholds()
    assert many.search_all([query])[0][0].threshold == 1.0
    thresholds_file(made / "many.ckpt").unlink()
    many.renew_thresholds()
    assert many.search_all([query])[0][0].threshold is None
