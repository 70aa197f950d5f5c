"""What steps and encoders use on Ascend, by MindSpore's dry run: compiled, nothing computed.

The pins beside this file say what each variant may use: kinds of operations that run by the old interface of kernels
(aclop) or that a GPU composes of others (expanded), and counts. Read the differences first. To renew the pins, or to
measure those of another variant, which enters as `NAME: {}`:

    RENEW_PINS=1 python -m pytest tests/apps/checks/test_dry_run.py
"""

import importlib.metadata
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from ms_unireid.apps.checks import dry_run, stand_ins
from ms_unireid.errors import ConfigError, EnvironmentProblem

PINS = Path(__file__).with_name("dry_run_pins.json")
COUNTS = ("graphs", "collectives", "host_reads")
# The form made for Ascend must hold these whatever the pins say.
MOST_ACLOP_KINDS, MOST_COLLECTIVES = 5, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if not importlib.metadata.version("mindspore").startswith("2.10."):
        pytest.skip("the dry run was tried with MindSpore 2.10, and its log differs between versions")
    try:
        folder = tmp_path_factory.mktemp("stand-ins")
        stand_ins.write_stand_ins(folder)
        return folder
    except EnvironmentProblem as error:
        pytest.skip(str(error))


# A step of several processes has what other steps have, and the exchanges.
FIRST = ("image encoder", "text encoder of every length", "step of process 0 of 8")


@pytest.fixture(scope="module", params=[True, pytest.param(False, marks=pytest.mark.exhaustive)], ids=["first", "rest"])
def found(folder, request):
    names = [name for name in json.loads(PINS.read_text())["variants"] if (name in FIRST) == request.param]
    return {one.name: one for one in dry_run.dry_run(list(map(dry_run.find, names)), folder, limit=300)}


def used(found):
    """Return what the pins say of a variant."""
    kinds = {name: sorted(+Counter(found.kinds.get(name, ()))) for name in ("aclop", "expanded")}
    return kinds | {name: getattr(found, name) for name in COUNTS}


def differences(pinned, found):
    """Say what a variant uses beyond its pins."""
    if found.error:
        return [f"{found.name}: {found.error}"]
    now = used(found)
    kinds = [(how, kind) for how in ("aclop", "expanded") for kind in now[how] if kind not in pinned[how]]
    lines = [f"{found.name}: {kind} is {how}, which it was not" for how, kind in kinds]
    more = [name for name in COUNTS if now[name] > pinned[name]]
    return lines + [f"{found.name}: {now[name]} {name}, at most {pinned[name]} before" for name in more]


@pytest.mark.slow
def test_each_variant_uses_what_is_pinned(found):
    if "RENEW_PINS" in os.environ:
        pins = json.loads(PINS.read_text())
        pins["variants"] |= {name: used(one) for name, one in found.items() if not one.error}
        PINS.write_text(json.dumps(pins, indent=1) + "\n")
    pins = json.loads(PINS.read_text())
    lines = [line for name, one in found.items() for line in differences(pins["variants"][name], one)]
    assert not lines, "\n".join([*lines, f"if this is right, renew {PINS.name} as {Path(__file__).name} says"])
    unexplained = {kind for pin in pins["variants"].values() for kind in pin["aclop"]} - set(pins["reasons"])
    assert not unexplained, f"{PINS.name}: no reason is given for {unexplained}"


@pytest.mark.slow
def test_the_form_for_ascend_keeps_its_bars(found):
    for name, one in found.items():
        assert not one.error, f"{name}: {one.error}"
        if "runtime.fused_ops=ascend" in dry_run.find(name).overrides:
            assert len(one.kinds["aclop"]) <= MOST_ACLOP_KINDS, f"{name}: {sorted(one.kinds['aclop'])}"
            assert one.collectives <= MOST_COLLECTIVES, f"{name}: {one.collectives} collectives"


LOG = """dry run: begin step
[INFO] DEVICE(1) GenerateKernelMod] kernel opname:ZerosLike, kernel type:acl_kernel
[INFO] RUNTIME CompileGraph] Status record: start compile graph.
[INFO] DEVICE(1) GenerateKernelMod] kernel opname:MatMul, kernel type:opapi_kernel
[INFO] DEVICE(1) GenerateKernelMod] kernel opname:Reshape, kernel type:rt_kernel
[INFO] DEVICE(1) GenerateKernelMod] kernel opname:AllReduce, kernel type:hccl_kernel
[INFO] RUNTIME CompileGraph] Status record: end compile graph. graph id: 7
[INFO] RUNTIME Run] Status record: start run actor: kernel_graph_7
dry run: step
[INFO] RUNTIME Run] Status record: start run actor: kernel_graph_7
[INFO] RUNTIME Run] Status record: start run actor: kernel_graph_7
[INFO] PYNATIVE DispatchRun] PyBoost sync run device task
dry run: end {"host_reads": 3, "peak_memory": 1048576}
dry run: begin next
"""


def test_the_log_of_a_child_is_counted():
    (step,) = dry_run.read_log(LOG.splitlines(True))
    assert {name: dict(counts) for name, counts in step.kinds.items()} == {
        "aclnn": {"MatMul": 1},
        "aclop": {"ZerosLike": 1},
        "collective": {"AllReduce": 1},
        "none": {"Reshape": 1},
    }
    assert (step.graphs, step.launches, step.collectives, step.host_reads, step.error) == (1, 5, 2, 3, "")
    assert json.loads(json.dumps(dry_run.to_json([step])))["variants"][0]["kinds"]["none"] == {"Reshape": 1}
    assert differences(used(step) | {"collectives": 1, "aclop": ["Adam"]}, step) == [
        "step: ZerosLike is aclop, which it was not",
        "step: 2 collectives, at most 1 before",
    ]


def test_a_child_that_dies_is_named(folder, monkeypatch):
    variant = dry_run.find(dry_run.TINY_VARIANTS[0])
    monkeypatch.setattr(dry_run, "child_command", lambda *_: ["sh", "-c", "echo 'dry run: begin none'; kill -9 $$"])
    (found,) = dry_run.dry_run([variant], folder, limit=10)
    assert found.error == "its process was killed by SIGKILL: no output"
    monkeypatch.setattr(dry_run, "child_command", lambda *_: ["sleep", "9"])
    (found,) = dry_run.dry_run([variant], folder, limit=0.1)
    assert found.error.startswith("no answer within 0.1 s")


def test_what_the_dry_run_needs_is_said(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"--variant nothing: .* give one of: step plain fp32"):
        dry_run.find("nothing")
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(EnvironmentProblem, match=r"cann: cannot be written \(Not a directory\); choose"):
        stand_ins.write_stand_ins(file)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentProblem, match=r"needs g\+\+, which is missing"):
        stand_ins.write_stand_ins(tmp_path)
    monkeypatch.setattr(stand_ins.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentProblem, match="no plugin for Ascend"):
        stand_ins.write_stand_ins(tmp_path)
