"""tools/verify_dataset.py as users run it: report, JSON, exit codes, interruption."""

import json
import os
import signal
import subprocess

from data.tri_factory import build, put_distinct
from PIL import Image
from tool_runner import LIMIT, command, run_tool


def verify(*arguments):
    return run_tool("verify_dataset.py", *arguments)


def test_a_usable_data_set(tmp_path):
    folder, file = build(tmp_path, "rstp_reid", put=put_distinct), tmp_path / "report.json"
    done = verify("--dataset", "rstp_reid", "--root", tmp_path, "--json", file, "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"rstp_reid in {folder}\n")
    assert done.stdout.splitlines()[-1] == "usable; problems: 0, warnings: 1"
    assert "12/12" in done.stderr
    report = json.loads(file.read_text(encoding="utf-8"))
    assert report["usable"] is True and report["pictures"] == 12 and report["folder"] == str(folder)


def test_a_data_set_with_problems(tmp_path):
    folder, file = build(tmp_path, "icfg_pedes", put=put_distinct), tmp_path / "report.json"
    (folder / "imgs/cam/0.jpg").unlink()
    (folder / "imgs/cam/1.jpg").write_bytes(b"")
    done = verify("--dataset", "icfg_pedes", "--root", folder, "--json", file)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == f"error: {folder}: problems: 2; fix them as the report says"
    assert "cam/0.jpg" in done.stdout and "the file is empty (0 bytes)" in done.stdout
    assert json.loads(file.read_text(encoding="utf-8"))["usable"] is False


def test_a_missing_folder(tmp_path):
    done = verify("--dataset", "market_sketch", "--root", tmp_path / "nowhere", "--quick")
    assert done.returncode == 2 and "market_sketch: not found" in done.stdout and "Traceback" not in done.stderr


def test_wrong_arguments(tmp_path):
    for arguments in (["--dataset", "cuhk", "--root", tmp_path], ["--dataset", "cuhk_pedes"]):
        assert verify(*arguments).returncode == 2
    done = verify("--dataset", "cuhk_pedes", "--root", tmp_path, "--captions", "x.json")
    assert done.returncode == 2 and done.stderr.startswith("error: cuhk_pedes has its own caption file")


def test_an_interruption_leaves_nothing_half_written(tmp_path):
    folder = build(tmp_path / "data", "cuhk_pedes", [])
    picture = tmp_path / "picture.png"
    # Large enough for a minute of work, so that the signal always comes in the middle.
    Image.effect_noise((900, 900), 90).convert("RGB").save(picture)
    (folder / "imgs/cam").mkdir(parents=True)
    for index in range(6000):
        (folder / "imgs/cam" / f"{index}.png").symlink_to(picture)
    arguments = ["--dataset", "cuhk_pedes", "--root", folder, "--json", tmp_path / "out" / "report.json"]
    started = subprocess.Popen(
        command("verify_dataset.py", *arguments, "--workers", 1),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        shown = ""
        while "picture" not in shown:  # the progress bar: pictures are being decoded
            shown += started.stderr.read(1)
            assert started.poll() is None, shown
        os.kill(started.pid, signal.SIGINT)
        out, err = started.communicate(timeout=LIMIT)
    finally:
        started.kill()
    assert started.returncode == 128 + signal.SIGINT, err
    assert out == "" and err.splitlines()[-1] == "stopped"
    assert not (tmp_path / "out").exists()
