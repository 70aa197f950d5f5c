"""The verifier finds each kind of defect in a small data set, with its fix, and nothing in a correct one."""

import dataclasses
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from apps.web.hostile_uploads import encoded
from data.sketch_factory import build_market, build_pku, write_style
from data.tri_factory import build, entry, noise_bytes, put_distinct, usual_entries
from PIL import Image

from ms_unireid.apps.checks import dataset
from ms_unireid.apps.checks.dataset import verify
from ms_unireid.apps.checks.dataset_layout import elsewhere
from ms_unireid.apps.checks.dataset_report import CountRow, FolderRow, Report, to_json, to_text
from ms_unireid.config import DataConfig, load_config
from ms_unireid.data.evaluation_sets import load_evaluation_set
from ms_unireid.data.findings import DataFinding
from ms_unireid.data.folders import nearly
from ms_unireid.data.published import ALL, PUBLISHED
from ms_unireid.data.tri_pedes import DATASETS, read_tri_pedes
from ms_unireid.errors import ConfigError, DataError, EnvironmentProblem

NAME = "cuhk_pedes"
WHOLE = {"counts": "warning"}  # a few pictures are a part of any published data set


@pytest.fixture
def tri(tmp_path) -> Path:
    """Build a whole data set of six photos and return its folder."""
    return build(tmp_path, NAME, put=put_distinct)


def defects(report: Report) -> dict[str, str]:
    """Return the findings that are not ok, with their states."""
    return {finding.what: finding.state for finding in report.findings if finding.state != "ok"}


def the(report: Report, what: str, state: str = "problem") -> DataFinding:
    """Return the only finding about something that is in a state."""
    found = [finding for finding in report.findings if (finding.what, finding.state) == (what, state)]
    assert len(found) == 1, to_text(report)
    return found[0]


def rewrite(folder: Path, change) -> None:
    """Change the entries of the caption file."""
    file = folder / "reid_raw.json"
    entries = json.loads(file.read_text(encoding="utf-8"))
    change(entries)
    file.write_text(json.dumps(entries), encoding="utf-8")


# 1. Whole data sets.


@pytest.mark.parametrize("name", DATASETS)
def test_a_whole_tri_data_set(tmp_path, name):
    build(tmp_path, name, put=put_distinct)
    report = verify(name, tmp_path)
    assert defects(report) == WHOLE and report.problems == 0
    assert report.pictures == 2 * len(usual_entries(name)) and not report.quick
    assert f"of {PUBLISHED[name][ALL]['photos']:,} photos" in the(report, "counts", "warning").detail
    assert the(report, "photos", "ok").detail.endswith("exist")
    assert "decode to their last pixel" in the(report, "pictures", "ok").detail


def test_whole_sketch_data_sets(tmp_path):
    build_pku(tmp_path, put=put_distinct)
    build_market(tmp_path, put=put_distinct)
    pku, market = verify("pku_sketch", tmp_path), verify("market_sketch", tmp_path)
    assert defects(pku) == defects(market) == WHOLE
    assert (pku.pictures, market.pictures) == (18, 26)
    assert CountRow("all", "style a", 3, 46) in pku.counts
    assert (
        CountRow("train", "style F", 2, 497) in market.counts and CountRow("test", "style B", 2, None) in market.counts
    )
    assert (
        FolderRow("photo/query", None, 6, 0) in market.folders
        and FolderRow("sketch/A/train", None, 0, 2) in market.folders
    )


def test_counts_and_folders_of_a_tri_data_set(tri):
    (tri / "imgs/other").mkdir()
    put_distinct(tri / "imgs/other/1.jpg")
    report = verify(NAME, tri)
    assert CountRow("train", "identities", 2, 11003) in report.counts
    assert (
        CountRow("all", "captions", 10, 80440) in report.counts
        and CountRow("all", "sketches", 6, 40206) in report.counts
    )
    assert [*report.folders] == [
        FolderRow("cam", 4, 4, 4), FolderRow("other", 0, 1, 0), FolderRow("test", 1, 1, 1), FolderRow("val", 1, 1, 1),
    ]  # fmt: skip
    assert "1 more are not used: no entry names them" in the(report, "photos", "ok").detail


def test_published_counts_are_consistent():
    for name in DATASETS:
        splits = [row for split, row in PUBLISHED[name].items() if split != ALL]
        for what in ("identities", "photos", "captions"):
            assert sum(row[what] for row in splits) == PUBLISHED[name][ALL][what]
        assert PUBLISHED[name][ALL]["sketches"] == PUBLISHED[name][ALL]["photos"]
    pku, market = PUBLISHED["pku_sketch"][ALL], PUBLISHED["market_sketch"]
    assert sum(pku[f"style {letter}"] for letter in "abcde") == pku["identities"] == 200
    assert market["train"]["identities"] + market["test"]["identities"] == market[ALL]["identities"]


@pytest.mark.parametrize(
    ("published", "state", "words"),
    [
        ({"photos": 6}, "ok", "as published"),
        ({"photos": 7}, "warning", "6 of 7 photos"),
        ({"photos": 5}, "warning", "more"),
    ],
)
def test_counts_against_the_published_ones(tri, monkeypatch, published, state, words):
    monkeypatch.setattr("ms_unireid.apps.checks.dataset.PUBLISHED", {NAME: {ALL: published}})
    assert words in the(verify(NAME, tri, quick=True), "counts", state).detail


# 2. The folder, archives and downloads.


def test_root_one_level_off(tri):
    for root in (tri, tri.parent):
        assert defects(verify(NAME, root)) == WHOLE
    for root in (tri / "imgs", tri / "imgs/cam"):
        found = the(verify(NAME, root, quick=True), "folder")
        assert str(tri) in found.detail and f"--root {tri}" in found.fix
    above = tri.parent.parent
    shutil.move(tri.parent, above / "deep/er")
    found = the(verify(NAME, above / "deep"), "folder")
    assert f"--root {above / 'deep/er/CUHK-PEDES'}" in found.fix


def test_folder_with_another_name(tri):
    other = tri.rename(tri.parent / "cuhk")
    report = verify(NAME, tri.parent)
    assert f"--root {other}" in the(report, "folder").fix and report.pictures == 12
    assert defects(verify(NAME, other)) == WHOLE


def test_folder_in_a_folder_of_the_same_name(tri):
    tri.rename(tri.parent / "inner")
    tri.mkdir()
    (tri.parent / "inner").rename(tri / "CUHK-PEDES")
    report = verify(NAME, tri.parent)
    found = the(report, "folder")
    assert "too deep" in found.detail and f"move the contents of {tri / 'CUHK-PEDES'} into {tri}" in found.fix
    assert report.folder == tri / "CUHK-PEDES" and report.pictures == 12


def test_only_an_archive(tmp_path):
    (tmp_path / "CUHK-PEDES.zip").write_bytes(b"PK")
    (tmp_path / "imgs.tar.gz.part").write_bytes(b"")
    report = verify(NAME, tmp_path)
    assert report.folder is None and report.pictures == 0
    assert [finding.state for finding in report.findings] == ["problem", "warning", "warning"]
    assert report.findings[1].examples == ("CUHK-PEDES.zip",) and "unpack" in report.findings[1].fix
    assert "unfinished" in report.findings[2].detail
    assert verify(NAME, tmp_path / "nowhere").problems == 1


def test_an_archive_is_named_only_if_something_is_missing(tri):
    (tri / "imgs.zip").write_bytes(b"PK")
    assert defects(verify(NAME, tri)) == WHOLE
    (tri / "imgs/cam/0.jpg").unlink()
    assert the(verify(NAME, tri), "archives", "warning").examples == ("imgs.zip",)


def test_another_data_set(tmp_path):
    folder = build(tmp_path, "icfg_pedes")
    found = the(verify(NAME, folder, quick=True), "folder", "warning")
    assert found.examples == ("icfg_pedes",) and "--dataset icfg_pedes" in found.fix


def test_the_search_of_folders_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr("ms_unireid.apps.checks.dataset_layout._MOST_FOLDERS", 3)
    for name in "abcdef":
        (tmp_path / name / "below").mkdir(parents=True)
    build(tmp_path / "z", NAME)
    assert verify(NAME, tmp_path).folder is None


# 3. The caption file.


def test_the_raw_download(tri):
    (tri / "reid_raw.json").rename(tri / "caption_all.json")
    report = verify(NAME, tri)
    found = the(report, "caption file")
    assert "no split" in found.detail and "ask the data set's authors" in found.fix
    assert report.pictures == 12 and the(report, "sketches", "ok")  # the pictures are looked at all the same
    assert FolderRow("cam", None, 4, 4) in report.folders


@pytest.mark.parametrize(("text", "words"), [("[{", "truncated or damaged"), ("{}", "expected a JSON list")])
def test_a_damaged_caption_file(tri, text, words):
    (tri / "reid_raw.json").write_text(text, encoding="utf-8")
    assert words in the(verify(NAME, tri), "caption file").detail


def test_all_malformed_entries_are_counted(tri):
    def damage(entries):
        entries[0]["captions"] = []
        entries[1]["captions"] = ["a man", "  "]
        entries[2]["id"] = "x"
        del entries[3]["split"]

    rewrite(tri, damage)
    found = the(verify(NAME, tri), "caption file")
    assert found.detail == "malformed entries: 4" and found.where.endswith("reid_raw.json")
    assert found.examples[0].startswith("entry 0: 'captions' must be a list") and "Fix" not in found.examples[0]
    assert "not blank" in found.examples[1] and "'id' must be" in found.examples[2] and "'split'" in found.examples[3]


def test_a_photo_with_two_entries(tri):
    rewrite(tri, lambda entries: entries.append(entry(NAME, "train", 1, "cam/0.jpg")))
    found = the(verify(NAME, tri), "caption file")
    assert found.detail == "photos with two entries: 1" and found.examples == ("cam/0.jpg",)


def test_an_identity_in_several_splits(tri):
    rewrite(tri, lambda entries: entries[5].update(id=2))
    found = the(verify(NAME, tri), "identities")
    assert found.count == 1 and found.examples == ("2 in test and train",)


def test_identities_with_a_gap(tri):
    rewrite(tri, lambda entries: [item.update(id=9) for item in entries[:2]])
    found = the(verify(NAME, tri), "identities")
    assert "first gap is at 1" in found.detail or "without gaps" in found.detail
    assert "data.allow_identity_gaps=true" in found.fix


def test_long_and_shared_captions(tri):
    rewrite(tri, lambda entries: entries[0].update(captions=["a red coat and " * 30, "man 3"]))
    report = verify(NAME, tri)
    long, shared = the(report, "captions", "warning"), the(report, "captions", "ok")
    assert (
        "122 tokens" in long.detail
        and "1 are longer than 77 and are cut" in long.detail
        and "a red" in long.examples[0]
    )
    assert "captions shared by several persons: 2" in shared.detail and report.problems == 0


# 4. Photos and sketches that are not where they should be.


def test_missing_photos(tri):
    (tri / "imgs/cam/1.jpg").unlink()
    report = verify(NAME, tri)
    found = the(report, "photos")
    assert found.detail == "1 of 6 are missing, by sub-folder: cam 1 of 4" and found.examples == ("cam/1.jpg",)
    assert "incomplete" in found.fix and report.pictures == 11
    assert FolderRow("cam", 4, 3, 4) in report.folders


def test_a_sub_folder_that_the_download_does_not_have(tri):
    shutil.rmtree(tri / "imgs/cam")
    found = the(verify(NAME, tri), "photos")
    assert found.count == 4 and "get the folders cam from" in found.fix


MISNAMED = "1 differ only in extension, letter case or Unicode form: rename these files"


@pytest.mark.parametrize("name", ["imgs/cam/0.JPG", "imgs/cam/0.png", "imgs/cam/0.jpg "])
def test_letter_case_and_extension(tri, name):
    (tri / "imgs/cam/0.jpg").rename(tri / name)
    assert the(verify(NAME, tri), "photos").fix == MISNAMED


@pytest.mark.parametrize(
    ("place", "moved"), [("imgs/imgs", "all"), (".", "cam"), ("images", "all"), ("photos/x", "cam")]
)
def test_photos_at_the_wrong_level(tri, place, moved):
    aside = (tri / "imgs").rename(tri / "aside")
    (tri / "imgs").mkdir()
    (tri / place).mkdir(parents=True, exist_ok=True)
    for child in [aside / "cam"] if moved == "cam" else list(aside.iterdir()):
        shutil.move(child, tri / place)
    shutil.rmtree(aside)
    found = the(verify(NAME, tri), "photos")
    names = "cam/, test/, val/" if moved == "all" else "cam/"
    assert (
        found.fix
        == f"{6 if moved == 'all' else 4} of them are in {tri / place}: move {names} from there into {tri / 'imgs'}"
    )


def test_the_advice_on_levels_fixes_the_data_set(tri):
    (tri / "imgs").rename(tri / "inner")
    (tri / "imgs").mkdir()
    (tri / "inner").rename(tri / "imgs/imgs")
    assert the(verify(NAME, tri), "photos")
    for child in list((tri / "imgs/imgs").iterdir()):
        shutil.move(child, tri / "imgs")
    assert verify(NAME, tri).problems == 0
    assert len(read_tri_pedes(NAME, tri).annotations(("train",))["train"]) == 4


def test_no_photos_at_all(tri):
    shutil.rmtree(tri / "imgs")
    (tri / "reid_raw.json").unlink()
    report = verify(NAME, tri.parent)
    assert the(report, "photos").detail == "no photos found" and the(report, "caption file") and report.pictures == 0


def test_missing_sketches(tri):
    (tri / "imgs-sketch2/cam/1.jpg").unlink()
    report = verify(NAME, tri)
    found = the(report, "sketches")
    assert "1 of 6 photos have none: cam 1 of 4" in found.detail and "build_sketches.py" in found.fix
    assert CountRow("all", "sketches", 5, 40206) in report.counts


def test_a_sketch_of_a_kind_that_is_not_taken(tri):
    (tri / "imgs-sketch2/cam/1.jpg").rename(tri / "imgs-sketch2/cam/1.bmp")
    report = verify(NAME, tri)
    assert "build_sketches.py" in the(report, "sketches").fix
    assert the(report, "sketches", "warning").examples == ("cam/1.bmp",)


def test_sketches_without_photos(tri):
    put_distinct(tri / "imgs-sketch2/cam/77.jpg")
    (tri / "imgs-sketch2/cam/Thumbs.db").write_bytes(b"x")
    found = the(verify(NAME, tri), "sketches", "warning")
    assert (found.count, found.examples) == (1, ("cam/77.jpg",))


@pytest.mark.parametrize("place", ["imgs-sketch", "sketches/imgs", "imgs-sketch2/imgs-sketch2"])
def test_sketches_at_the_wrong_level(tri, place):
    aside = (tri / "imgs-sketch2").rename(tri / "aside")
    (tri / place).parent.mkdir(parents=True, exist_ok=True)
    aside.rename(tri / place)
    found = the(verify(NAME, tri), "sketches")
    assert f"6 of them are in {tri / place}: move cam/, test/, val/ from there into {tri / 'imgs-sketch2'}" == found.fix


@pytest.mark.parametrize("prefix", ["imgs", "CUHK-PEDES", "CUHK-PEDES/imgs"])
def test_sketches_in_every_layout_that_the_loader_takes(tmp_path, prefix):
    build(tmp_path, NAME, sketch_prefix=prefix, put=put_distinct)
    assert defects(verify(NAME, tmp_path)) == WHOLE


def test_elsewhere_finds_by_path_and_counts():
    files = ["a/x/1.png", "a/x/2.png", "b/x/2.png", "x/2.jpg", "xx/2.png", "a/2.png"]
    assert elsewhere(["x/1.jpg", "x/2.jpg"], files) == {
        "a/": ["x/1.jpg", "x/2.jpg"],
        "": ["x/2.jpg"],
        "b/": ["x/2.jpg"],
    }
    assert elsewhere(["2.png"], ["a.b/2", "a/2.x"]) == {"a.b/": ["2.png"], "a/": ["2.png"]}
    assert nearly(["x/1.jpg", "x/2.jpg"], ["X/1.PNG"]) == ["x/1.jpg"]


def test_what_build_sketches_leaves_in_the_folder_is_known(tri):
    sketches = tri / "imgs-sketch2"
    (sketches / "sketches.json").write_text("{}", encoding="utf-8")
    shutil.copytree(sketches / "cam", sketches / "variations/2/cam")
    assert "sketches" not in defects(verify(NAME, tri, quick=True))
    put_distinct(sketches / "variations/2/cam/77.jpg")
    assert the(verify(NAME, tri, quick=True), "sketches", "warning").examples == ("variations/2/cam/77.jpg",)


def test_the_verdict_says_what_the_splits_are_good_for(tri):
    rewrite(tri, lambda entries: [entries.pop(0) for _ in range(4)])
    report = verify(NAME, tri, quick=True)
    assert "no entry belongs to train, only to test and val" in the(report, "splits", "warning").detail
    assert "\n\nusable for evaluation only; problems: 0" in to_text(report)
    assert to_json(report)["conditions"] == ["for evaluation only"]


def test_a_data_set_of_one_split_can_be_trained_on_with_an_option(tri):
    rewrite(tri, lambda entries: [entries.pop() for _ in range(2)])
    assert verify(NAME, tri, quick=True).conditions == ("with eval.selection_split=train",)
    from ms_unireid.training.run_data import RunData

    with pytest.raises(ConfigError, match="selection_split"):
        RunData(load_config(None, [f"data.root={tri}", "data.batch_size=2"]))
    RunData(load_config(None, [f"data.root={tri}", "data.batch_size=2", "eval.selection_split=train"]))


def test_nothing_is_said_of_what_was_not_looked_at(tri):
    for folder in ("imgs", "imgs-sketch2"):
        for file in (tri / folder).rglob("*.jpg"):
            file.unlink() if folder == "imgs" else file.write_bytes(b"")
    report = verify(NAME, tri)
    assert not [finding for finding in report.findings if finding.what == "duplicates"]


@pytest.mark.parametrize("key", ["split", "captions", "file_path"])
def test_text_that_no_file_can_hold_is_named(tri, key):
    rewrite(tri, lambda entries: entries[1].update({key: ["\ud83d"] if key == "captions" else "\ud83d"}))
    report = verify(NAME, tri, quick=True)
    assert "entry 1: " in the(report, "caption file").examples[0] and to_text(report).encode("utf-8")


def test_a_name_cannot_forge_a_line_of_the_report(tri):
    rewrite(tri, lambda entries: entries.append(entry(NAME, "train", 2, "x\nusable\x1b[2K/a.jpg")))
    report = verify(NAME, tri, quick=True)
    assert r"such as: x\nusable\x1b[2K/a.jpg" in to_text(report) and r"x\nusable\x1b[2K  " in to_text(report)
    assert to_json(report)["folders"][-1]["folder"] == "x\nusable\x1b[2K"


# 5. Pixels.


def hole(data: bytes) -> bytes:
    """Zero 512 bytes in the middle, as a full disk or a broken download does."""
    middle = len(data) // 2
    return data[:middle] + bytes(512) + data[middle + 512 :]


UNREADABLE = {
    "empty": b"",
    "text": b"<html>404 not found</html>",
    "half PNG": noise_bytes("PNG")[:5000],
    "half JPEG": noise_bytes("JPEG")[:2000],
    "half BMP": noise_bytes("BMP")[:5000],
    "PNG with a hole": hole(noise_bytes("PNG")),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_unreadable_pictures(tri, kind):
    (tri / "imgs/cam/0.jpg").write_bytes(UNREADABLE[kind])
    found = the(verify(NAME, tri), "pictures")
    assert found.count == 1 and "cam/0.jpg (" in found.examples[0] and "copy these files again" in found.fix


@pytest.mark.parametrize("progressive", [False, True])
def test_damage_inside_a_jpeg_that_pillow_decodes_without_a_warning(tri, progressive):
    whole = noise_bytes("JPEG", progressive=progressive)
    Image.open(io.BytesIO(hole(whole))).load()
    (tri / "imgs-sketch2/cam/0.jpg").write_bytes(whole)
    assert defects(verify(NAME, tri)) == WHOLE
    (tri / "imgs-sketch2/cam/0.jpg").write_bytes(hole(whole))
    found = the(verify(NAME, tri), "pictures", "warning")
    assert "damage inside" in found.detail and "imgs-sketch2/cam/0.jpg (" in found.examples[0]


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_every_kind_of_jpeg_is_whole(tri, mode):
    Image.linear_gradient("L").resize((33, 77)).convert(mode).save(tri / "imgs/cam/0.jpg", format="JPEG")
    assert defects(verify(NAME, tri)) == WHOLE


def with_tag(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return encoded(Image.linear_gradient("L"), "JPEG", exif=tags)


ODD = {
    "an orientation tag": with_tag(6),
    "transparency": encoded(Image.merge("LA", [Image.linear_gradient("L")] * 2), "PNG"),
    "more than 8 bits": encoded(Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64) * 16), "PNG"),
    "one value throughout": encoded(Image.new("L", (20, 60), 255), "PNG"),
}
PLAIN = {
    "upright": with_tag(1),
    "opaque": encoded(Image.linear_gradient("L").convert("RGBA"), "PNG"),
    "CMYK": encoded(Image.linear_gradient("L").convert("CMYK"), "TIFF"),
}


@pytest.mark.parametrize("oddity", ODD)
def test_pictures_that_are_not_read_as_the_authors_read_them(tri, oddity):
    (tri / "imgs/cam/0.jpg").write_bytes(ODD[oddity])
    report = verify(NAME, tri)
    found = the(report, "pictures", "warning")
    assert found.detail == f"pictures with {oddity}: 1" and "imgs/cam/0.jpg" in found.examples[0]
    assert not report.problems and found.fix


@pytest.mark.parametrize("name", PLAIN)
def test_pictures_that_only_look_odd(tri, name):
    (tri / "imgs/cam/0.jpg").write_bytes(PLAIN[name])
    assert defects(verify(NAME, tri)) == WHOLE


def test_quick_looks_at_the_ends_only(tri):
    (tri / "imgs/cam/0.jpg").write_bytes(hole(noise_bytes("JPEG")))
    (tri / "imgs/cam/1.jpg").write_bytes(noise_bytes("JPEG")[:2000])
    report = verify(NAME, tri, quick=True)
    assert the(report, "pictures").count == 1 and "cam/1.jpg" in the(report, "pictures").examples[0]
    assert "not checked" in the(report, "duplicates", "warning").detail and report.quick


def test_a_very_large_jpeg_is_not_decoded(tri, monkeypatch):
    monkeypatch.setattr("ms_unireid.data.pictures.MAX_PIXELS", 1000)
    (tri / "imgs/cam/0.jpg").write_bytes(noise_bytes("JPEG"))
    assert "60x160 pixels" in the(verify(NAME, tri), "pictures").examples[0]


def test_one_thread_finds_what_many_find(tri):
    (tri / "imgs/cam/0.jpg").write_bytes(b"")
    done = []
    one = verify(NAME, tri, workers=1, progress=lambda *counts: done.append(counts))
    assert one.findings == verify(NAME, tri, workers=8).findings and done == [(12, 12)]


def test_an_interruption_does_not_wait_for_the_rest(tri, monkeypatch):
    monkeypatch.setattr(dataset, "_CHUNK", 1)
    looked = []
    check = dataset._check
    monkeypatch.setattr(dataset, "_check", lambda path, quick: looked.append(path) or check(path, quick))

    def stop(done, total):
        raise KeyboardInterrupt

    paths = [path for path in tri.rglob("*.jpg")] * 40
    links = [path.parent / f"{index}_{path.name}" for index, path in enumerate(paths)]
    for link, path in zip(links, paths, strict=True):
        link.symlink_to(path)
    with pytest.raises(KeyboardInterrupt):
        dataset.check_all(links, workers=1, progress=stop)
    assert len(looked) < len(links)


def test_without_the_decoder_it_says_what_to_install(tri, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EnvironmentProblem, match=r"simplejpeg is not installed.*pip install"):
        verify(NAME, tri)
    assert verify(NAME, tri, quick=True).pictures == 12


# 6. Duplicates.


def copy(folder: Path, source: str, *targets: str) -> None:
    for target in targets:
        shutil.copyfile(folder / source, folder / target)


def test_the_same_photo_of_one_person_is_for_information(tri):
    copy(tri, "imgs/cam/0.jpg", "imgs/cam/1.jpg")
    report = verify(NAME, tri)
    assert defects(report) == WHOLE
    assert any("2 photos in 1 groups with the same bytes; groups across splits: 0" in f.detail for f in report.findings)


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("imgs/cam/0.jpg", "imgs/cam/2.jpg", "groups across splits: 0, across persons: 1"),
        ("imgs/cam/0.jpg", "imgs/test/x.jpg", "groups across splits: 1, across persons: 1"),
        ("imgs-sketch2/cam/0.jpg", "imgs-sketch2/test/x.jpg", "2 sketches in 1 groups"),
    ],
)
def test_the_same_bytes_of_several_persons(tri, source, target, words):
    copy(tri, source, target)
    found = the(verify(NAME, tri), "duplicates", "warning")
    assert words in found.detail and found.examples == (f"{source} = {target}",) and found.count == 1


def test_sketches_that_are_photos(tri):
    shutil.rmtree(tri / "imgs-sketch2")
    shutil.copytree(tri / "imgs", tri / "imgs-sketch2")
    found = the(verify(NAME, tri), "duplicates")
    assert found.count == 6 and "photos and sketches with the same bytes" in found.detail


# 7. PKU-Sketch and Market-Sketch-1K.


def test_defects_of_pku_sketch_are_all_found(tmp_path):
    folder = build_pku(tmp_path, put=put_distinct)
    (folder / "sketch/5.jpg").unlink()
    (folder / "photo/1_03_11.jpg").unlink()
    put_distinct(folder / "photo/x.jpg")
    write_style(folder, "b", (5, 12), 1)
    (folder / "styleAnnotation/e_0.txt").write_bytes(b"\xff\xfe")
    report = verify("pku_sketch", tmp_path)
    details = {finding.detail: finding.state for finding in report.findings if finding.state != "ok"}
    assert details["files not named ID_CAMERA_FRAME.jpg: 1"] == "problem"
    assert details["identities with photos and no sketch: 1"] == "problem"
    assert details["identities in two styles, or twice in one: 1"] == "problem"
    assert details["identities that do not have 2 photos: 1"] == "warning"
    assert details["identities in the style files without a sketch: 1"] == "warning"
    assert any("not UTF-8 text" in detail for detail in details)
    assert report.problems == 4


def test_a_part_of_pku_sketch_is_usable_on_a_condition(tmp_path):
    folder = build_pku(tmp_path, put=put_distinct)
    assert verify("pku_sketch", folder).conditions == ()
    (folder / "styleAnnotation/a_3.txt").rename(folder / "styleAnnotation/a_46.txt")
    report = verify("pku_sketch", folder)
    assert defects(report) == {**WHOLE, "styles": "warning"}
    assert to_text(report).endswith("usable with data.allow_partial=true; problems: 0, warnings: 2")
    load = DataConfig(name="pku_sketch", root=str(folder))
    with pytest.raises(DataError, match="allow_partial=true"):
        load_evaluation_set(load, "test")
    assert len(load_evaluation_set(dataclasses.replace(load, allow_partial=True), "test").trials) == 10


def test_a_part_of_pku_sketch_that_has_no_trial_is_not_usable(tmp_path):
    folder = build_pku(tmp_path, {"b": (5,), "c": (7,)}, put=put_distinct)
    assert "no style has two persons or more" in the(verify("pku_sketch", folder), "trials").detail
    with pytest.raises(DataError, match="no style has two persons or more"):
        load_evaluation_set(DataConfig(name="pku_sketch", root=str(folder)), "test")


@pytest.mark.parametrize("place", ["photo", "sketch", ".."])
def test_pku_sketch_at_the_wrong_level(tmp_path, place):
    folder = build_pku(tmp_path / "somewhere", put=put_distinct)
    root = tmp_path if place == ".." else folder / place
    report = verify("pku_sketch", root)
    assert f"--root {folder}" in the(report, "folder").fix and report.pictures == 18


@pytest.mark.parametrize("place", ["sketch", "photo/train", ".."])
def test_market_sketch_at_the_wrong_level(tmp_path, place):
    folder = build_market(tmp_path / "somewhere", put=put_distinct)
    report = verify("market_sketch", tmp_path if place == ".." else folder / place)
    assert f"--root {folder}" in the(report, "folder").fix and report.pictures == 26


def test_a_folder_of_pku_sketch_one_level_too_deep(tmp_path):
    folder = build_pku(tmp_path, put=put_distinct)
    (folder / "photo").rename(folder / "inner")
    (folder / "photo").mkdir()
    (folder / "inner").rename(folder / "photo/photo")
    found = the(verify("pku_sketch", folder), "photo/")
    assert found.count == 12 and f"move them into {folder / 'photo'}" == found.fix


def test_defects_of_market_sketch_are_all_found(tmp_path):
    folder = build_market(tmp_path, put=put_distinct)
    put_distinct(folder / "sketch/A/query/0002_A.jpg")
    put_distinct(folder / "sketch/A/query/0011_A.jpg")
    shutil.rmtree(folder / "sketch/D/train")
    report = verify("market_sketch", tmp_path)
    details = [finding.detail for finding in report.findings if finding.state == "problem"]
    assert "identities drawn in both splits: 1" in details
    assert "identities with a sketch and no photo: 2" in details
    assert any("the folder is missing" in detail for detail in details)
    assert report.problems == 3 and CountRow("train", "style D", 0, None) in report.counts


@pytest.mark.parametrize(
    ("text", "state", "words"),
    [
        ('{"1": ["a man"]}', "problem", "5 of 6 identities have no caption"),
        (
            json.dumps({person: ["a man"] for person in (1, 3, 5, 7, 12, 20)}),
            "ok",
            "6 captions, the longest has 4 tokens",
        ),
    ],
)
def test_captions_by_person(tmp_path, text, state, words):
    build_pku(tmp_path, put=put_distinct)
    file = tmp_path / "captions.json"
    file.write_text(text, encoding="utf-8")
    report = verify("pku_sketch", tmp_path, captions=file)
    assert any(f.what == "captions" and f.state == state and words in f.detail for f in report.findings)


# 8. Calls that make no sense, and what is written.


def test_wrong_calls(tmp_path):
    with pytest.raises(DataError, match=r"unknown data set 'cuhk'.*market_sketch"):
        verify("cuhk", tmp_path)
    with pytest.raises(DataError, match="has its own caption file"):
        verify(NAME, tmp_path, captions=tmp_path / "x.json")
    with pytest.raises(DataError, match="0 workers"):
        verify(NAME, tmp_path, workers=0)


def test_the_text_report(tri):
    (tri / "imgs/cam/1.jpg").unlink()
    text = to_text(verify(NAME, tri))
    blocks = text.split("\n\n")
    assert blocks[0] == f"cuhk_pedes in {tri}"
    assert blocks[1].splitlines()[1].split() == ["train", "identities", "2", "11,003"]
    assert blocks[2].splitlines()[0].split() == ["folder", "named", "photos", "sketches"]
    assert blocks[2].splitlines()[1].split() == ["cam", "4", "3", "4"]
    assert len({len(line) for line in blocks[2].splitlines()}) == 1
    assert "such as: cam/1.jpg" in blocks[3] and f"in: {tri / 'imgs'}" in blocks[3] and "fix: " in blocks[3]
    assert blocks[-1] == "not usable; problems: 1, warnings: 1"


def test_the_json_report(tri):
    report = verify(NAME, tri)
    raw = json.loads(json.dumps(to_json(report)))
    assert set(raw) == {
        "dataset",
        "folder",
        "usable",
        "conditions",
        "findings",
        "counts",
        "folders",
        "pictures",
        "quick",
        "seconds",
    }
    assert (raw["dataset"], raw["folder"], raw["usable"], raw["pictures"]) == (NAME, str(tri), True, 12)
    assert {frozenset(row) for row in raw["findings"]} == {
        frozenset({"what", "state", "detail", "fix", "where", "count", "examples"})
    }
    assert raw["counts"][0] == {"split": "train", "what": "identities", "found": 2, "published": 11003}
    assert raw["folders"][0] == {"folder": "cam", "named": 4, "photos": 4, "sketches": 4}
    assert to_json(Report(NAME, None, ()))["folder"] is None


def test_real_data(real_root):
    slice_ = verify(NAME, real_root, quick=True)
    assert slice_.problems == 0 and slice_.pictures == 3006
    assert defects(slice_) == {"counts": "warning", "captions": "warning", "duplicates": "warning"}
    assert "1,503 of 40,206 photos" in the(slice_, "counts", "warning").detail
    assert slice_.folders == (FolderRow("CUHK01", 1503, 1503, 1503),)
    sample = verify("pku_sketch", real_root)
    assert sample.problems == 0 and sample.pictures == 42
    assert defects(sample) == {"counts": "warning", "styles": "warning"}
