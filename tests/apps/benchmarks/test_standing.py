"""The standing benchmark: works at several sizes, and what it says of the last time."""

import copy
import dataclasses
import json

import pytest
from tool_runner import load_tool

from ms_unireid.apps.benchmarks import standing
from ms_unireid.errors import UserError


def result(seconds: float) -> dict:
    rows = [{"size": size, "seconds": dict.fromkeys(("median", "min", "max"), seconds * size)} for size in (10, 100)]
    machine = {"platform": "here", "cpu_count": 2, "device": "CPU"}
    return {"works": {"search": {"unit": "photos", "rows": rows}}, "machine": machine, "config": []}


def test_the_exponent_of_growth():
    sizes = [10, 100, 5000]
    assert standing.growth(sizes, [3 * size**1.5 for size in sizes]) == pytest.approx(1.5)


def test_what_became_slower_by_more_than_its_spread():
    now, last = result(2.0), result(1.0)
    assert standing.compare(now, last)["slower"] == [
        "search, 10 photos: 20.00 [20.00..20.00] s, before 10.00 [10.00..10.00] s",
        "search, 100 photos: 200.00 [200.00..200.00] s, before 100.00 [100.00..100.00] s",
    ]
    now["works"]["search"]["rows"][0]["seconds"]["min"] = 10.0  # its fastest round was once the slowest
    assert len(standing.compare(now, last)["slower"]) == 1
    assert standing.compare(last, now) == {"note": "", "slower": []}


@pytest.mark.parametrize(("key", "value"), [("cpu_count", 16), ("platform", "there")])
def test_another_machine_is_not_compared(key, value):
    other = copy.deepcopy(result(1.0))
    other["machine"][key] = value
    found = standing.compare(result(2.0), other)
    assert found == {"note": f"not compared with the last result: another {key}", "slower": []}


def test_two_works_twice(tmp_path, monkeypatch, capsys):
    """Six seconds: four processes without MindSpore's compiler."""
    for name, sizes in (("search", (100, 300)), ("evaluation", (40, 80))):
        monkeypatch.setitem(standing.WORKS, name, dataclasses.replace(standing.WORKS[name], sizes=sizes))
    file = tmp_path / "kept.json"
    arguments = [
        "standing",
        "--works",
        "search",
        "evaluation",
        "--rounds",
        "1",
        "--last",
        str(file),
        "--json",
        str(file),
    ]
    load_tool("benchmark.py").main(arguments)
    assert "nothing to compare with" in capsys.readouterr().out
    kept = json.loads(file.read_text(encoding="utf-8"))
    assert {name: [row["size"] for row in work["rows"]] for name, work in kept["works"].items()} == {
        "search": [100, 300],
        "evaluation": [40, 80],
    }
    for work in kept["works"].values():
        for row in work["rows"]:
            row["seconds"] = dict.fromkeys(row["seconds"], 1e-9)
    file.write_text(json.dumps(kept), encoding="utf-8")
    load_tool("benchmark.py").main(arguments)
    assert capsys.readouterr().out.count("before 1e-09") == 4


def test_a_last_result_that_is_none(tmp_path):
    file = tmp_path / "kept.json"
    file.write_text('{"works": 3}', encoding="utf-8")
    with pytest.raises(UserError, match=r"kept\.json: is damaged .* give another file as --last"):
        load_tool("benchmark.py").main(["standing", "--works", "search", "--rounds", "1", "--last", str(file)])
