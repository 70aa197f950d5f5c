"""Verification of a collection of one's own: the modalities of its columns, and files of other data sets beside it."""

import json
from pathlib import Path

from data.tri_factory import put_distinct, put_picture

from ms_unireid.apps.checks.dataset import verify
from ms_unireid.data.published import ALL

KINDS = ("pencil", "thermal", "thermal_2")


def make(folder: Path, **changed: object) -> Path:
    """Write four photos with a pencil drawing and two thermal pictures each; `changed` are values of the last row."""
    rows = []
    for place in range(4):
        row = {"split": "train" if place < 2 else "test", "id": f"Ann {place}", "caption": "A man.", "remark": "x"}
        row |= {kind: f"{kind}/{place}.png" for kind in ("file_path", *KINDS)}
        for kind in ("file_path", *KINDS):
            put_distinct(folder / row[kind])
        rows.append(row)
    rows[-1] |= changed
    (folder / "pairs.json").write_text(json.dumps(rows))
    return folder


def told(report) -> str:
    return "\n".join(f"{one.state}: {one.detail}" for one in report.findings)


def test_a_column_of_pictures_is_a_modality(tmp_path):
    report = verify("pairs", make(tmp_path))
    assert not report.problems and "not read are the columns remark;" in told(report)
    counts = {row.what: row.found for row in report.counts if row.split == ALL}
    assert (counts["pencil"], counts["thermal"], report.pictures) == (4, 8, 16)


def test_a_missing_picture_of_such_a_column_is_told(tmp_path):
    report = verify("pairs", make(tmp_path, thermal="thermal/9.png", pencil=["pencil/0.png", "pencil/1.png"]))
    assert report.problems and "files of the column thermal that do not exist, thermal 1 of 4" in told(report)
    put_picture(tmp_path / "thermal" / "9.png")
    assert not verify("pairs", tmp_path).problems


def test_a_column_with_anything_else_is_none(tmp_path):
    report = verify("pairs", make(tmp_path, thermal=7, thermal_2="no picture"))
    assert "not read are the columns remark, thermal, thermal_2;" in told(report) and report.pictures == 8


def test_files_of_another_data_set_beside_it_are_no_matter(tmp_path):
    (make(tmp_path) / "reid_raw.json").write_text("[]")
    report = verify("pairs", tmp_path)
    assert "looks like another data set" not in told(report) and not report.problems
