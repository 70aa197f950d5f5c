"""The archive for the maintainers: what helps is in it, and no name of a person, machine, place or picture."""

import getpass
import json
import socket
import zipfile

import pytest

from ms_unireid.apps.checks import report
from ms_unireid.apps.checks.report import Scrubber, write_report
from ms_unireid.config import load_config
from ms_unireid.data.findings import Finding

SECRETS = ("magda", "lenz", "cam7", "secret", "passport", "zurich", "192.168", "suspects")


@pytest.fixture
def someone(monkeypatch, tmp_path):
    """Be Magda Lenz on her machine."""
    monkeypatch.setenv("HOME", str(tmp_path / "magda"))
    monkeypatch.setenv("USER", "magda")
    monkeypatch.setattr(getpass, "getuser", lambda: "magda")
    monkeypatch.setattr(socket, "gethostname", lambda: "zurich-03.lenz.org")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "magda" / "cuda-11.6"))
    monkeypatch.setenv("LD_LIBRARY_PATH", "/home/magda/Ascend/lib64:/usr/lib/x")
    monkeypatch.setenv("MS_SCHED_HOST", "192.168.7.8")
    monkeypatch.setenv("NVIDIA_API_KEY", "secret")
    monkeypatch.setenv("SOMETHING", "secret")
    monkeypatch.setattr(report, "_COMMANDS", ("echo zurich-03 /mnt/secret/x.so 910B3 | 8.9.6",))


def test_an_archive_has_what_helps_and_no_names(someone, tmp_path):
    root = tmp_path / "two words" / "Secret Photos"
    logs = tmp_path / "lenz" / "logs"
    logs.mkdir(parents=True)
    lines = (
        f"RuntimeError: {root}/cam7 west/passport 1.jpg: cannot be read",
        'File "/home/magda/envs/a/lib/python3.11/site-packages/mindspore/ops/x.py", line 12, in launch',
        'File "/home/magda/ms_unireid/ms_unireid/training/trainer.py", line 34, in fit',
        "rank 3 on zurich-03 (192.168.7.8) for magda@lenz.org failed: aclnnAdd EZ9999",
        "suspects/list.txt: no such file; images suspects, passport.PNG",
    )
    (logs / "worker_zurich-03.log").write_text("old secret\n" + "x\n" * (report._BYTES // 2) + "\n".join(lines))
    (logs / "secret.jpg").write_bytes(b"secret")
    config = load_config(None, [f"data.root={root}", "train.output=suspects"])
    findings = [
        Finding("data set", "problem", f"{root}/CUHK-PEDES: is missing", "set data.root"),
        Finding("numpy", "ok", "1.26.4"),
    ]
    file = tmp_path / "report.zip"
    file.write_text("an older one")
    write_report(file, findings, config, {"steps-Ascend-0-mixed": f"Traceback {root}\nEE1001: no device"}, [logs])
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name).decode() for name in archive.namelist()}
    everything = json.dumps(members).lower()
    assert not [word for word in SECRETS if word in everything]
    (log,) = (text for name, text in members.items() if name.startswith("logs/"))
    assert 'site-packages/mindspore/ops/x.py", line 12' in log and "aclnnAdd EZ9999" in log
    assert 'ms_unireid/training/trainer.py", line 34' in log
    assert "EE1001: no device" in members["outputs/steps-Ascend-0-mixed"]
    assert "910B3 | 8.9.6" in members["devices.txt"]
    told = json.loads(members["report.json"])
    assert told["findings"][0]["detail"] == "<path>: is missing" and told["findings"][1]["detail"] == "1.26.4"
    assert told["config"]["data"]["root"] == told["config"]["train"]["output"] == "<path>"
    assert told["config"]["model"]["architecture"] == "ViT-B/16"
    assert told["variables"]["LD_LIBRARY_PATH"] == "<path>/Ascend/lib64:/usr/lib/x"
    assert told["variables"]["CUDA_HOME"] == "<path>/cuda-11.6"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lenz", "report.zip"]


def test_without_packages_there_is_no_config(someone, tmp_path):
    write_report(tmp_path / "report.zip", [], None, {})
    with zipfile.ZipFile(tmp_path / "report.zip") as archive:
        assert json.loads(archive.read("report.json"))["config"] == {}


@pytest.mark.parametrize(
    "text",
    [
        "a / b, n/a and/or 3 images/s, $CUDA_HOME/lib64 of CUDA 11.6",
        "features 0.9056, loss 6.2168 5.2212; 127.0.0.1:8118; cuDNN 8.9.6",
        "/usr/lib/libc.so.6 => /lib64/ld.so (0x7f), /dev/davinci_manager, /proc/cpuinfo",
        "2026-05-06-07:08:09.123.456 [ERROR] GE(1234,python): data.root, root, ops.Add",
    ],
)
def test_what_names_nobody_stays(someone, text):
    assert Scrubber(["data"])(text) == text
