"""tools/build_sketches.py as users run it: killed and resumed, failures, merging, measures, training on the result."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from apps.sketch.photo_factory import contents, person, photo_folder
from PIL import Image
from tool_runner import LIMIT, ROOT, command, load_tool, run_tool, train_arguments

from ms_unireid.data.tri_pedes import read_tri_pedes
from ms_unireid.errors import UserError

TEST_ONLY = ("train.epochs=1", "eval.splits=[test]", "eval.selection_split=test", "runtime.graph_mode=false")


def arguments(root, output="sketches", *others):
    return ["--photos", root / "photos", "--output", root / output, "--background", "mask",
            "--background-option", f"folder={root / 'masks'}", *others]  # fmt: skip


def call(*arguments: object) -> None:
    """Call the tool's main in this process."""
    load_tool("build_sketches.py").main([str(one) for one in arguments])


@pytest.fixture
def root(tmp_path):
    photo_folder(tmp_path, 24)
    return tmp_path


def test_a_killed_and_resumed_run_ends_with_the_same_bytes(root):
    call(*arguments(root, "straight", "--variations=2", "--workers=1"))
    line = command("build_sketches.py", *arguments(root, "killed", "--variations=2", "--workers=2"))
    for wanted in (1, 30):  # files on disk at which to kill
        started = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + LIMIT
        while started.poll() is None and time.monotonic() < deadline:
            if len(list((root / "killed").rglob("*.png"))) >= wanted:
                os.kill(started.pid, signal.SIGKILL)  # only the parent: its workers must notice
                break
            time.sleep(0.005)
        assert started.wait(LIMIT) == -signal.SIGKILL
        assert json.loads((root / "killed" / "sketches.json").read_text())["complete"] is False
        assert workers_end(started.pid)
    done = subprocess.run(line, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["there already"] > 0
    assert contents(root / "killed") == contents(root / "straight")


def workers_end(session: int) -> bool:
    """Wait until no process of a killed run is left, idle workers included."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.killpg(session, 0)
        except (ProcessLookupError, PermissionError):
            return True
        time.sleep(0.05)
    return False


def test_a_failure_gives_exit_code_two_and_one_line(root):
    (root / "photos" / "cam" / "7.png").write_bytes(b"junk")
    done = run_tool("build_sketches.py", *arguments(root, "sketches", "--workers=1"))
    assert done.returncode == 2
    assert json.loads(done.stdout) == {
        "folder": str(root / "sketches"), "drawn": 23, "there already": 0, "failed": 1, "noted": 0,
        "left out": "",
    }  # fmt: skip
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: 1 photos have no sketch: cam/7.png: not a picture")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (["--background-option", "foldr=x"], "did you mean 'folder'"),
        (["--style-option", "thicknes=2"], "unknown key 'thicknes'; did you mean 'thickness'"),
        (["--style-option", "thickness=fat"], "'thickness' must be a number"),
        (["--size", "4", "4"], "expected height and width of 16 to 4096"),
        (["--variations", "0"], "variations must be at least 1"),
        (["--style", "command"], "give the program with --style-option"),
        (["--style", "onnx", "--style-option", "description=none.yaml"], "none.yaml: cannot be read"),
        (["--merge", "merged"], "--merge needs identities"),
        (["--evaluate"], "has no sketches of these photos"),
    ],
)
def test_mistakes_are_reported_and_leave_nothing(root, others, message):
    tool = load_tool("build_sketches.py")
    with pytest.raises(UserError, match=re.escape(message)):
        tool.main([str(word) for word in arguments(root, "sketches", "--workers=1", *others)])
    assert not (root / "sketches").exists()


def test_a_missing_extra_is_reported_in_one_line(root):
    if importlib.util.find_spec("rembg"):
        pytest.skip("rembg is installed here")
    done = run_tool("build_sketches.py", "--photos", root / "photos", "--output", root / "s", "--background", "rembg")
    assert done.returncode == 2 and not (root / "s").exists()
    assert done.stderr.startswith("error: the background rembg needs the package rembg, which is not installed")
    assert len(done.stderr.splitlines()) == 1


def test_a_read_only_folder_is_reported(root):
    if os.geteuid() == 0:
        target = "/proc/sketches"  # where even root cannot write
    else:
        (root / "locked").mkdir(mode=0o500)
        target = root / "locked" / "sketches"
    done = run_tool("build_sketches.py", *arguments(root, target))
    assert done.returncode == 2 and "cannot be written" in done.stderr.splitlines()[-1]


def test_a_data_set_without_sketches_becomes_one_to_train_on(data, tmp_path, capsys):
    """Draw, merge, train and evaluate, starting from the photos and captions of the synthetic data set."""
    source, root = data / "CUHK-PEDES", tmp_path / "CUHK-PEDES"
    root.mkdir()
    (root / "reid_raw.json").write_bytes((source / "reid_raw.json").read_bytes())
    (root / "imgs").symlink_to(source / "imgs")
    given = ["--dataset", "cuhk_pedes", "--root", tmp_path, "--background", "none"]
    call(*given, "--style", "lines", "--workers=1")
    test = read_tri_pedes("cuhk_pedes", tmp_path).annotations(["test"])["test"]
    assert len(test) == 12 and all(a.pictures["sketch"][0].is_relative_to(root / "imgs-sketch2") for a in test)
    capsys.readouterr()
    call(*given, "--merge", tmp_path / "merged")
    assert json.loads(capsys.readouterr().out)["identities"] == 20
    run = tmp_path / "run"
    load_tool("train.py").main(train_arguments(tmp_path, run, *TEST_ONLY))
    report = ["--evaluate", "--checkpoint", run / "last.ckpt", "--reference", source / "imgs-sketch2"]
    capsys.readouterr()
    call(*given, *report, "--json", tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    assert found == json.loads(capsys.readouterr().out)
    assert found["sketches"] == 60 and found["photos_without_sketch"] == 0 and found["outside_mask_percent"] is None
    assert found["reference"]["sketches"] == 60 and found["reference"]["stroke_width_distance"] > 0
    rows = {row["protocol"]: row for row in found["retrieval"]}
    assert rows["full_gallery"]["queries"] == 12 and rows["full_gallery"]["chance_R1"] == pytest.approx(25)
    trained = json.loads((run / "results.json").read_text())["best"]["average"]["splits"]["test"]
    same = next(row for row in trained if (row["task"], row["protocol"]) == ("sketch", "exclude_source_photo"))
    assert rows["exclude_source_photo"] == same


def test_preview_and_a_folder_with_a_name_pattern(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    for name in ("1_a.png", "1_b.jpg", "2_a.png", ".hidden.png", "notes.txt"):
        person().save(tmp_path / "photos" / name, format="PNG")
    given = ["--photos", tmp_path / "photos", "--background", "none"]
    call(*given, "--preview", tmp_path / "sheet.png")
    assert Image.open(tmp_path / "sheet.png").size == (3 * 134, 3 * 390 + 16)
    given += ["--output", tmp_path / "sketches", "--workers=1"]
    capsys.readouterr()
    call(*given)
    assert json.loads(capsys.readouterr().out)["drawn"] == 3
    call(*given, "--identity-pattern", r"^(\d+)_", "--merge", tmp_path / "merged")
    assert json.loads(capsys.readouterr().out)["identities"] == 2
    one, two = (np.asarray(Image.open(tmp_path / "merged" / f"1_{letter}.png")) for letter in "ab")
    assert (one == two).all()


def test_the_benchmark_measures_without_the_extra(root, tmp_path):
    out = tmp_path / "out.json"
    line = ["sketches", "--photos", root / "photos", "--count", 30, "--background", "none", "--json", out]
    done = run_tool("benchmark.py", *line)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["photos_per_second_per_core"] > 0 and found["failed"] == 0
    assert 0 < found["peak_mib_after_a_tenth"] <= found["peak_mib"]


def test_the_tool_needs_no_mindspore():
    script = (
        "import sys; sys.path.insert(0, 'tools')\n"
        "import build_sketches\n"
        "assert not {'mindspore', 'cv2', 'mediapipe'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
