"""Damaged files of a run folder: what is read of them is whole enough for all that uses it, or they are refused."""

import copy
import json
import tarfile
from pathlib import Path

import pytest
from fuzz.fuzzing import damaged, outcome, tries
from hypothesis import given
from hypothesis import strategies as st

from ms_unireid.apps.paper.table_plan import PlannedRun, estimate
from ms_unireid.config import load_config, to_dict
from ms_unireid.evaluation.evaluator import to_table
from ms_unireid.training.curves import draw_curves
from ms_unireid.training.run_folder import RunFolder, improved, read_log
from ms_unireid.training.seeds import report_seeds, seeds_markdown

_ARCHIVE = Path(__file__).parents[1] / "fixtures" / "f29aeed.tar.xz"
_NAMES = ("config.yaml", "log.jsonl", "results.json")
with tarfile.open(_ARCHIVE) as archive:
    _RUN = {name: archive.extractfile(f"./run/{name}").read() for name in _NAMES}
_LINES = [json.loads(line) for line in _RUN["log.jsonl"].splitlines()]
_VALUES = st.sampled_from([None, True, -1, 10**9, 10**400, 0.5, "", "x", [], {}, [1], {"a": 1}, float("nan"), 1e999])


def _folder(tmp_path_factory, **changed):
    folder = RunFolder(tmp_path_factory.getbasetemp() / "run")
    folder.root.mkdir(exist_ok=True)
    for name, data in {**_RUN, **changed}.items():
        (folder.root / name).write_bytes(data)
    return folder


def _resume(folder):
    """Read a run as a resumed run, a series of seeds and the plan of a table do."""
    config = load_config(folder.config_file, [f"train.output={folder.root}"])
    folder.check_resumable(config)
    folder.check_state(folder.last, {"config": to_dict(config), "epoch": 1, "done": 0, "step": 0}, config)
    results = folder.results()
    improved(dict.fromkeys(("text", "sketch", "fusion", "average"), 50.0), results["best"])
    estimate(PlannedRun("cuhk_pedes", "unireid", config))
    if finished := folder.finished_results(1):
        seeds_markdown(report_seeds({1: finished, 2: json.loads(_RUN["results.json"])}))
    for entry in (*results["evaluations"], *results["best"].values()):
        for rows in entry["splits"].values():
            to_table(rows)
    return results


def _try(tmp_path_factory, **changed):
    folder = _folder(tmp_path_factory, **changed)
    if outcome(_resume, folder) is not None:
        folder.rewind(9, 1)
        assert outcome(_resume, folder) is not None  # what was written can be read
    return folder


def test_the_whole_run(tmp_path_factory):
    folder = _folder(tmp_path_factory)
    assert outcome(_resume, folder) == json.loads(_RUN["results.json"])
    assert outcome(read_log, folder.log_file) == _LINES


@tries(400)
@given(damaged(_RUN))
def test_a_damaged_file(tmp_path_factory, found):
    name, data = found
    _try(tmp_path_factory, **{name: data})


@tries(100)
@given(damaged({"log.jsonl": _RUN["log.jsonl"]}))
def test_a_damaged_log_is_read_as_its_lines(tmp_path_factory, found):
    folder = _folder(tmp_path_factory, **{"log.jsonl": found[1]})
    entries = outcome(read_log, folder.log_file)
    if entries is not None:
        whole = [json.loads(line, parse_constant=lambda _: None) for line in found[1].split(b"\n")[:-1]]
        assert entries[: len(whole)] == whole and len(entries) - len(whole) in (0, 1)


@pytest.mark.parametrize("name", ["log.jsonl", "results.json"])
@tries(300)
@given(data=st.data())
def test_another_value_anywhere(tmp_path_factory, name, data):
    content = json.loads(_RUN[name]) if name == "results.json" else copy.deepcopy(_LINES)
    place = content
    while True:
        key = data.draw(st.sampled_from(range(len(place)) if isinstance(place, list) else sorted(place)))
        if not isinstance(place[key], list | dict) or not place[key] or data.draw(st.integers(0, 3)) == 0:
            break
        place = place[key]
    if data.draw(st.booleans()):
        del place[key]
    else:
        place[key] = data.draw(_VALUES)
    text = json.dumps(content) if name == "results.json" else "".join(f"{json.dumps(line)}\n" for line in content)
    folder = _try(tmp_path_factory, **{name: text.encode()})
    drawn = name == "log.jsonl" and data.draw(st.integers(0, 9)) == 0  # it takes a second
    if drawn and outcome(read_log, folder.log_file) is not None:
        draw_curves(folder.log_file, folder.root / "curves.png")
