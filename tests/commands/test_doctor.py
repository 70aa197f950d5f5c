"""The doctor through its command line, with this installation and with a Python without packages."""

import json
import subprocess
import sys
import zipfile

import pytest
from tool_runner import CONFIGS, TINY, TOOLS, load_tool, run_tool

from ms_unireid.apps.checks import dry_run
from ms_unireid.errors import ConfigError, UserError


def test_this_installation_trains_and_the_data_are_found(data, tmp_path):
    file = tmp_path / "doctor.json"
    base = CONFIGS / "base.yaml"
    overrides = [*TINY, f"data.root={data}", f"train.output={tmp_path / 'run'}"]
    archive = tmp_path / "report.zip"
    done = run_tool("doctor.py", "--config", base, "--json", file, "--report", archive, *overrides, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    findings = {finding["what"]: finding for finding in json.loads(file.read_text(encoding="utf-8"))}
    assert {"Python", "mindspore", "numpy", "dependencies", "devices", "memory", "disk"} <= findings.keys()
    assert findings["step CPU fp32"]["detail"].endswith("as expected")
    assert findings["data set"]["state"] == findings["model.pretrained"]["state"] == "ok"
    assert "problem" not in {finding["state"] for finding in findings.values()}
    assert done.stdout.splitlines()[0].split() == ["state", "what", "found"]
    assert not (tmp_path / "run").exists()
    with zipfile.ZipFile(archive) as opened:
        report = opened.read("report.json").decode()
    assert [one["what"] for one in json.loads(report)["findings"]] == list(findings)
    assert str(tmp_path) not in report and str(data) not in report


def test_without_any_package_it_says_what_to_install():
    command = [sys.executable, "-S", str(TOOLS / "doctor.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and done.stderr.splitlines()[-1].startswith("error: ")
    assert "mindspore            not installed, expected mindspore>=" in done.stdout
    assert "MindSpore is not installed: no device can be used" in done.stdout


def test_several_configs_are_read_as_training_reads_them():
    tool = load_tool("doctor.py")
    files = [str(CONFIGS / "tri_icfg_pedes" / "unireid.yaml"), str(CONFIGS / "devices" / "cpu.yaml")]
    config = tool._config_of(tool._parse(["--config", files[0], "--config", files[1], "train.epochs=2"]))
    assert (config.data.name, config.runtime.device, config.train.epochs) == ("icfg_pedes", "CPU", 2)


def test_logs_without_an_archive_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"--report FILE\.zip"):
        load_tool("doctor.py").main(["--logs", str(tmp_path)])


def test_the_table_of_a_dry_run_is_archived(monkeypatch, tmp_path, capsys):
    found = [dry_run.Found("step plain fp32", launches=7)]
    monkeypatch.setattr(dry_run, "dry_run", lambda variants, stand_ins, limit: found)
    load_tool("doctor.py").main(["--dry-run", "--report", str(tmp_path / "report.zip")])
    with zipfile.ZipFile(tmp_path / "report.zip") as opened:
        assert opened.read("outputs/dry_run.md").decode() + "\n" == capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--dry-run", "--variant", "nothing"], "--variant nothing: there is no such variant; give one of: step plain"),
        (["--dry-run", "--stand-ins", "/dev/null"], "--stand-ins /dev/null: cannot be written"),
        (["--dry-run", "model.stride=8"], "--dry-run compiles variants of its own; leave out --config"),
        (["--markdown", "table.md"], "--variant, --stand-ins and --markdown are of the dry run; add --dry-run"),
    ],
)
def test_wrong_arguments_of_the_dry_run_are_told(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as told:
        load_tool("doctor.py").main(arguments)
    assert str(told.value).startswith(message) and "\n" not in str(told.value)
    assert not list(tmp_path.iterdir())
