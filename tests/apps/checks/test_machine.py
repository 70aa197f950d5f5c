"""The doctor's checks one by one: wrong packages, devices, child processes and machines, and their findings."""

import importlib.metadata
import json
import math
import shutil
from types import SimpleNamespace

import pytest
from tool_runner import CONFIGS

from ms_unireid.apps.checks import machine as doctor
from ms_unireid.apps.checks import machine_child as doctor_child
from ms_unireid.apps.checks import packages as doctor_packages
from ms_unireid.config import ModelConfig, load_config
from ms_unireid.data.findings import Finding, to_json, to_table

PAPER = CONFIGS / "tri_cuhk_pedes" / "unireid.yaml"
GOOD = {"features": 0.9056, "losses": [6.217, 5.221, 4.346, 3.968]}


@pytest.fixture
def installed(monkeypatch):
    """Return a function that pretends package versions; None is a missing package."""
    real = importlib.metadata.version

    def pretend(**versions):
        def version(name):
            found = versions[name] if name in versions else real(name)
            if found is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return found

        monkeypatch.setattr(importlib.metadata, "version", version)

    return pretend


@pytest.fixture
def distributions(monkeypatch):
    """Return a function that pretends what is installed: name to version and requirements."""

    def pretend(**packages):
        found = [
            SimpleNamespace(metadata={"Name": name}, version=version, requires=requires)
            for name, (version, *requires) in packages.items()
        ]
        monkeypatch.setattr(importlib.metadata, "distributions", lambda: found)
        monkeypatch.setattr(doctor_packages, "own_requirements", lambda: ["mindspore>=2.7", "numpy<2"])

    return pretend


@pytest.fixture
def child(monkeypatch, tmp_path):
    """Return a function that puts a script in the place of the child process."""

    def pretend(script):
        (tmp_path / "stand_in.py").write_text(script, encoding="utf-8")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setattr(doctor_child, "__name__", "stand_in")

    return pretend


@pytest.fixture
def answers(monkeypatch):
    """Return a function that sets what the child process answers."""

    def pretend(result, failure=""):
        monkeypatch.setattr(doctor, "run_child", lambda arguments, limit, outputs: (result, failure))

    return pretend


def finding_of(findings, what):
    return next(finding for finding in findings if finding.what == what)


def config(*overrides):
    return load_config(PAPER, overrides)


# 1. Packages.


def test_the_ranges_are_those_of_the_requirements_file():
    text = (CONFIGS.parent / "requirements.txt").read_text(encoding="utf-8")
    assert doctor_packages.own_requirements() == [x for x in text.splitlines() if x and not x.startswith("#")]
    assert len(doctor_packages.own_requirements()) >= 8


def test_installed_without_a_checkout_the_metadata_has_the_ranges(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor_packages, "_ROOT", tmp_path)
    wishes = ["numpy<2", 'pytest>=8; extra == "test"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: wishes if name == "ms-unireid" else None)
    monkeypatch.setattr(importlib.metadata, "metadata", lambda name: {"Requires-Python": "<3"})
    assert doctor_packages.own_requirements() == ["numpy<2"]
    assert doctor_packages.check_python().state == "problem"


def test_this_installation_is_in_order():
    findings = [doctor_packages.check_python(), *doctor_packages.check_packages()]
    assert {finding.state for finding in findings} == {"ok"}


@pytest.mark.parametrize(
    ("package", "version", "state", "words"),
    [
        ("numpy", "2.1.0", "problem", "crash"),
        ("numpy", "1.26.4", "ok", "1.26.4"),
        ("mindspore", "2.11.0", "problem", "expected mindspore>=2.7,<2.11"),
        ("mindspore", None, "problem", "not installed"),
        ("mindcv", "0.2.0", "problem", "expected mindcv==0.3.0"),
    ],
)
def test_versions_against_the_ranges(installed, package, version, state, words):
    installed(**{package: version})
    found = finding_of(doctor_packages.check_packages(), package)
    assert found.state == state and words in found.detail
    assert found.fix.startswith(f"pip install '{package}") == (state == "problem")


def test_without_packaging_versions_are_listed_and_not_compared(monkeypatch, installed):
    monkeypatch.setattr(doctor_packages, "_packaging", lambda module, name: None)
    installed(numpy="2.1.0", tqdm=None)
    findings = doctor_packages.check_packages()
    assert finding_of(findings, "numpy").state == "warning" and "packaging is missing" in findings[0].detail
    assert finding_of(findings, "tqdm").state == "problem"
    assert doctor_packages.check_python().state == doctor_packages.check_conflicts()[0].state == "warning"


def test_a_requirement_of_a_needed_package_that_is_not_met_is_a_problem(distributions):
    distributions(MindSpore=("2.7.0", "numpy<2", "Proto_Buf>=4"), numpy=("1.26", "gone"), **{"proto-buf": ("3.0",)})
    problems = doctor_packages.check_conflicts()
    assert [(p.state, p.detail) for p in problems] == [
        ("problem", "mindspore requires Proto_Buf>=4, found 3.0"),
        ("problem", "numpy requires gone, which is missing"),
    ]
    assert problems[0].fix == "pip install 'Proto_Buf>=4'"


def test_an_unmet_requirement_of_another_package_is_a_warning_only_if_it_concerns_ours(distributions):
    distributions(
        mindspore=("2.10.0", "numpy>=1.25", "cuda>=1; extra == 'gpu'"),
        numpy=("1.26.4",),
        stranger=("1.0", "numpy>=2", "other>=5"),
        other=("1.0", "not a requirement !"),
    )
    (warning,) = doctor_packages.check_conflicts()
    assert warning.state == "warning" and warning.detail == "stranger requires numpy>=2, found 1.26.4"


def test_agreement_is_one_line(distributions):
    distributions(mindspore=("2.10.0", "numpy>=1.25"), numpy=("1.26.4",), other=("1.0",))
    assert doctor_packages.check_conflicts() == [Finding("dependencies", "ok", "2 packages agree with each other")]


# 2. Environment and child processes.


@pytest.mark.parametrize(
    ("device", "value", "state", "fix"),
    [
        ("CPU", "graph_pipeline:false", "ok", ""),
        ("CPU", "a:b,graph_pipeline:false", "ok", ""),
        ("CPU", "a:b", "warning", "MS_DEV_RUNTIME_CONF=a:b,graph_pipeline:false"),
        ("CPU", "", "warning", "MS_DEV_RUNTIME_CONF=graph_pipeline:false"),
        ("Ascend", "graph_pipeline:false", "ok", ""),  # ours, which is taken back
        ("GPU", "a:b", "ok", ""),
        ("GPU", "a:b,graph_pipeline:false", "warning", "MS_DEV_RUNTIME_CONF=a:b"),
    ],
)
def test_the_variable_of_the_launch_pipeline(monkeypatch, device, value, state, fix):
    monkeypatch.setenv("MS_DEV_RUNTIME_CONF", value)
    found = next(doctor.check_environment(device))
    assert found.state == state and found.fix.endswith(fix) and bool(found.fix) == bool(fix)


@pytest.mark.parametrize(("given", "state"), [("INFNAN_MODE", "ok"), ("SATURATION_MODE", "warning")])
def test_the_variable_of_overflows_is_of_ascend(monkeypatch, given, state):
    monkeypatch.setenv("MS_ASCEND_CHECK_OVERFLOW_MODE", given)
    found = {name: list(doctor.check_environment(name))[1:] for name in ("CPU", "GPU", "Ascend")}
    assert not found["CPU"] and not found["GPU"] and [finding.state for finding in found["Ascend"]] == [state]


@pytest.mark.parametrize(
    ("wanted", "counts", "device"),
    [("auto", {"Ascend": 0, "GPU": 2, "CPU": 1}, "GPU"), ("auto", {}, "CPU"), ("Ascend", {"CPU": 1}, "Ascend")],
)
def test_the_variables_are_those_of_the_device_that_will_be_used(wanted, counts, device):
    assert doctor._used_device(config(f"runtime.device={wanted}"), counts) == device


RESULT = f"print('library chatter'); print({doctor_child.RESULT!r} + '{{\"CPU\": 1}}', flush=True)"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
        ("import time; time.sleep(60)", "no answer within 2 s"),
        ("import sys; print('oh dear', file=sys.stderr); sys.exit(3)", "code 3: oh dear"),
        ("import sys; sys.exit(3)", "code 3: no output"),
        ("print('nothing to tell')", "code 0"),
        (f'print({doctor_child.RESULT!r} + \'{{"error": "ValueError: x"}}\')', "ValueError: x"),
    ],
)
def test_a_child_that_fails_is_a_finding(child, script, words):
    child(script)
    outputs = {}
    result, failure = doctor.run_child(["devices"], 2, outputs)
    assert result == {} and words in failure
    assert outputs["devices"] == ("oh dear\n" if "oh dear" in words else "")
    assert doctor.check_steps("CPU", 0, "fp32", 2, outputs)[1].state == "problem"
    assert list(outputs) == ["devices", "steps-CPU-0-fp32"]


@pytest.mark.parametrize("end", ["", "; import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"])
def test_a_child_that_answers_has_done_its_work(child, end):
    child(RESULT + end)
    outputs = {}
    assert doctor.run_child(["devices"], 20, outputs) == ({"CPU": 1}, "") and not outputs


def test_the_child_returns_any_error_as_its_result(capsys):
    doctor_child.main(["steps", "CPU"])
    line = capsys.readouterr().out.strip()
    assert "ValueError" in json.loads(line.removeprefix(doctor_child.RESULT))["error"]


# 3. Devices and steps.


def test_devices_are_listed(answers, monkeypatch):
    monkeypatch.setattr(doctor, "check_accelerator", None)
    answers({"Ascend": 1, "GPU": 0, "CPU": 1})
    assert doctor.check_devices(config(), 1, {}) == (
        {"Ascend": 1, "GPU": 0, "CPU": 1},
        [Finding("devices", "ok", "Ascend 1, GPU 0, CPU 1")],
    )


def test_several_ascend_devices_need_a_package_of_cann(answers):
    answers({"Ascend": 8, "GPU": 0, "CPU": 1})
    ok, warning = doctor.check_devices(config(), 1, {})[1]
    assert ok.state == "ok" and warning.state == "warning" and "package hccl" in warning.detail


@pytest.mark.parametrize(("device", "state"), [("Ascend", "problem"), ("auto", "warning")])
def test_a_device_that_mindspore_does_not_see_is_told_with_what_it_lacks(answers, monkeypatch, tmp_path, device, state):
    monkeypatch.setitem(doctor.DRIVERS, "Ascend", tmp_path)
    monkeypatch.delenv("ASCEND_HOME_PATH", raising=False)
    answers({"Ascend": 0, "GPU": 0, "CPU": 1})
    first, *lacks = doctor.check_devices(config(f"runtime.device={device}"), 1, {})[1]
    assert first.state == state and "below" in first.fix
    assert ("runtime.device=CPU" in first.fix) == (device == "Ascend")
    assert ("Ascend", state, "ASCEND_HOME_PATH is not set") in [(one.what, one.state, one.detail) for one in lacks]


def test_without_mindspore_no_child_is_started(monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(doctor, "run_child", None)
    counts, (found,) = doctor.check_devices(None, 1, {})
    assert counts == {} and found.state == "problem" and "not installed" in found.detail


@pytest.mark.parametrize(
    ("change", "state", "words"),
    [
        ({}, "ok", "as expected"),
        ({"losses": [6.2, 5.2, 4.3, math.nan]}, "problem", "not finite or not falling"),
        ({"losses": [6.2, 6.3, 6.4, 6.5]}, "problem", "not finite or not falling"),
        ({"losses": [6.217, 5.221, 4.346, 3.8]}, "problem", "expected"),
        ({"features": 0.8}, "problem", "expected"),
    ],
)
def test_the_numbers_of_a_step_are_judged(answers, change, state, words):
    answers({**GOOD, **change})
    found = doctor.check_steps("CPU", 0, "fp32", 1, {})[1]
    assert found.what == "step CPU fp32" and found.state == state and words in found.detail
    assert bool(found.fix) == (state != "ok")


def test_an_accelerator_is_tried_in_both_precisions_and_its_memory_counts(monkeypatch):
    asked = []

    def answer(arguments, limit, outputs):
        asked.append(arguments)
        counts = {"Ascend": 0, "GPU": 2, "CPU": 1}
        return (counts if arguments == ["devices"] else {**GOOD, "memory": 2**30}), ""

    monkeypatch.setattr(doctor, "run_child", answer)
    findings = list(doctor.examine(config("runtime.device_id=1"), True, 1))
    tried = [["steps", "GPU", "1", "fp32"], ["steps", "GPU", "1", "mixed"], ["steps", "CPU", "1", "fp32"]]
    assert asked == [["devices"], *tried]
    memory = finding_of(findings, "memory")
    assert memory.state == "problem" and memory.detail.startswith("GPU: 1.0 GiB for a step of ViT-B/16 on 64 pairs")


# 4. The machine and what the config names.


@pytest.mark.parametrize(
    ("overrides", "asked", "gib", "state", "words"),
    [
        ([], True, 20, "problem", "64 pairs in float32, about 66"),
        ([], True, 70, "ok", "64 pairs"),
        (["train.cache_chunk=8"], True, 20, "ok", "8 pairs in float32, about 10.2"),
        ([], False, 20, "ok", "8 pairs"),
        ([], False, 8, "warning", "8 pairs"),
        (["runtime.recompute=true"], True, 8, "ok", "activations not known"),
        (["model.architecture=tiny"], True, 8, "ok", "activations not known"),
    ],
)
def test_memory_against_a_step(monkeypatch, overrides, asked, gib, state, words):
    monkeypatch.setattr(doctor, "free_memory", lambda: gib * 2**30)
    found = doctor.check_memory(config("runtime.device=CPU", *overrides), asked, {})
    assert found.state == state and words in found.detail
    assert ("cache_chunk" in found.fix) == (state != "ok")


def test_unknown_memory_is_a_warning(monkeypatch):
    monkeypatch.setattr(doctor, "free_memory", lambda: None)
    assert doctor.check_memory(config(), True, {}).state == "warning"
    assert doctor.check_memory(config("runtime.device=GPU"), True, {"CPU": 0}).detail.startswith("GPU: unknown")


def test_free_memory_is_positive():
    assert doctor.free_memory() > 0


@pytest.mark.parametrize(("asked", "free", "state"), [(True, 5, "problem"), (False, 5, "warning"), (True, 50, "ok")])
def test_disk_against_a_runs_checkpoints(monkeypatch, tmp_path, asked, free, state):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=free * 2**30))
    found = doctor.check_disk(config(f"train.output={tmp_path}/a/b"), asked)
    assert found.state == state and found.detail.startswith(f"{tmp_path}: {free}.0 GiB free")


def test_a_folder_that_cannot_be_written_is_a_problem(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor.os, "access", lambda place, mode: False)
    assert "cannot be written" in doctor.check_disk(config(f"train.output={tmp_path}"), False).detail


@pytest.mark.parametrize(("asked", "state"), [(True, "problem"), (False, "warning")])
def test_a_missing_data_set_and_missing_weights_name_the_fix(monkeypatch, tmp_path, asked, state):
    monkeypatch.setattr(doctor, "run_child", lambda arguments, limit, outputs: ({}, "broken"))
    wanted = config(f"data.root={tmp_path}", f"model.pretrained={tmp_path}/no.pt")
    findings = list(doctor.examine(wanted, asked, 1))
    data, weights = finding_of(findings, "data set"), finding_of(findings, "model.pretrained")
    assert data.state == weights.state == state
    assert str(tmp_path) in data.detail and data.fix and "no.pt" in weights.detail
    assert finding_of(findings, "devices").detail == "broken"


def test_weights_of_another_architecture_are_refused(monkeypatch):
    found = SimpleNamespace(kind="openai_clip", model=ModelConfig("ViT-B/32"))
    monkeypatch.setattr("ms_unireid.checkpoints.recognition.open_source", lambda path, **_: found)
    wanted = config("model.pretrained=x.pt")
    refused = doctor._guarded("weights", "problem", lambda: doctor.check_pretrained(wanted))
    assert refused.detail == "x.pt: is a ViT-B/32, expected ViT-B/16" and "ViT-B/32" in refused.fix
    found.model = ModelConfig("ViT-B/16")
    assert doctor.check_pretrained(wanted) == Finding("model.pretrained", "ok", "x.pt: openai_clip, ViT-B/16")


@pytest.mark.parametrize(("architecture", "state"), [("ViT-B/16", "warning"), ("tiny", "ok")])
def test_random_weights_are_a_warning_where_the_paper_has_clips(architecture, state):
    assert doctor.check_pretrained(config(f"model.architecture={architecture}")).state == state


def test_a_check_whose_package_is_missing_is_a_warning():
    def check():
        raise ImportError("No module named 'PIL'")

    assert "not checked: No module named 'PIL'" in doctor._guarded("data set", "problem", check).detail


# 5. What is printed.


def test_the_table_has_a_line_per_finding_and_one_per_fix():
    findings = [Finding("numpy", "ok", "1.26"), Finding("disk", "problem", "full", "make room")]
    lines = to_table(findings).splitlines()
    assert [line.split()[0] for line in lines] == ["state", "ok", "problem", "fix:"]
    assert lines[3].endswith("fix: make room")
    assert to_json(findings)[1] == {"what": "disk", "state": "problem", "detail": "full", "fix": "make room"}
