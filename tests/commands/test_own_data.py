"""A collection of one's own through the command lines, from a spreadsheet to a search.

Costs some 20 seconds: an epoch of the tiny model, without compilation, and a few commands on what it leaves.
"""

import contextlib
import csv
import io
import json
import shutil
from pathlib import Path

import pytest
from tool_runner import load_tool, train_arguments

from ms_unireid.errors import UserError

UNCOMPILED = "runtime.graph_mode=false"


def here(tool: str, *arguments: object) -> str:
    """Run a tool in this process; return what it printed on stdout and stderr."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        load_tool(tool).main(list(map(str, arguments)))
    return said.getvalue()


def write_rows(folder: Path, rows: list[dict]) -> None:
    with (folder / "people.csv").open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=";")
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def own(data, tmp_path_factory) -> tuple[Path, list[dict]]:
    """Return a folder with a spreadsheet's file, and its rows: every third photo has no sketch and one caption."""
    drawn, folder = data / "CUHK-PEDES", tmp_path_factory.mktemp("own")
    shutil.copytree(drawn / "imgs", folder / "photos")
    shutil.copytree(drawn / "imgs-sketch2", folder / "drawn")
    rows = []
    for place, entry in enumerate(json.loads((drawn / "reid_raw.json").read_text())):
        lone = place % 3 == 2
        rows.append(
            {
                "split": entry["split"],
                "id": f"Person {entry['id']}",
                "file_path": f"photos/{entry['file_path']}",
                "caption": entry["captions"][0],
                "caption_2": "" if lone else entry["captions"][1],
                "sketch": "" if lone else f"drawn/{entry['file_path']}",
                "remark": "seen by Bo",
            }
        )
    return folder, rows


def arguments(own: Path, run: Path, *overrides: str) -> list[str]:
    brief = ("data.name=pairs", "train.epochs=1", "train.log_every=100", UNCOMPILED, "eval.splits=[val]")
    return train_arguments(own, run, *brief, *overrides)


def test_a_spreadsheet_is_trained_on_evaluated_and_searched(own, tmp_path):
    folder, rows = own
    write_rows(folder, rows)
    report = here("verify_dataset.py", "--dataset", "pairs", "--root", folder)
    assert report.endswith("usable; problems: 0, warnings: 0\n") and "not read are the columns remark" in report
    counts = [line.split() for line in report.split("\n")]
    for row in (["train", "photos", "36"], ["all", "captions", "100"], ["all", "sketch", "40"]):
        assert [*row, "-"] in counts
    run = tmp_path / "run"
    told = here("train.py", *arguments(folder, run))
    assert "people.csv: not read are the columns remark; data.modalities names pictures" in told
    assert "of 60 training pairs, tasks have text 60, sketch 48, fusion 48" in told
    assert json.loads((run / "results.json").read_text())
    table = here("evaluate.py", "--checkpoint", run / "last.ckpt", "--split", "test", UNCOMPILED)
    queries = {words[0]: int(words[-2]) for line in table.split("\n") if (words := line.split()) and "->R" in words[0]}
    assert queries == {"T->R": 20, "S->R": 8, "T+S->R": 16}
    index = ("index", "--dataset", "pairs", "--root", folder, "--checkpoint", run / "last.ckpt")
    assert '"photos": 12' in here("search.py", *index, "--split", "test", "--output", tmp_path / "index", UNCOMPILED)
    found = here("search.py", "query", "--index", tmp_path / "index", "--text", "a man", "--top-k", 1, UNCOMPILED)
    tested = {row["id"] for row in rows if row["split"] == "test"}
    assert any(f"person {name}" in found for name in tested)
    write_rows(folder, [{key: value for key, value in row.items() if key != "split"} for row in rows])
    with pytest.raises(UserError, match="has no splits, and an index"):
        here("search.py", *index, "--output", tmp_path / "other", UNCOMPILED)


PENCIL = (
    "data.modalities=[sketch, pencil]",
    "objective.tasks=[text, pencil]",
    "objective.dynamic=false",
    "objective.interaction_weight=0",
)
REFUSED = [
    ({}, PENCIL, r"no training photo has all that the task pencil of objective\.tasks asks with; of 60 .* pencil 60"),
    ({"caption": "", "caption_2": ""}, (), "training persons have no caption; the first one's photo is"),
    ({"sketch": "drawn/none.png"}, (), "column sketch that do not exist"),
    ({"sketch": "../none.png"}, (), "line 2: the sketch's path '../none.png' leaves the sketch folder"),
]


@pytest.mark.parametrize(("values", "overrides", "words"), REFUSED)
def test_what_is_wrong_stops_before_training(own, tmp_path, values, overrides, words):
    folder, rows = own
    person = rows[0]["id"]
    write_rows(folder, [row | values if row["id"] == person else row for row in rows])
    with pytest.raises(UserError, match=words) as raised:
        here("train.py", *arguments(folder, tmp_path / "run", *overrides))
    assert "\n" not in str(raised.value) and not (tmp_path / "run").exists()
