"""Exit codes, one-line errors, and a stdout that holds results only; without MindSpore."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ms_unireid import __version__
from ms_unireid.commands.main import JOBS

ROOT = Path(__file__).resolve().parents[2]
HEAD = """
import os, signal, sys, types
from ms_unireid.commands.main import run
from ms_unireid.errors import *
def main(arguments):
"""
TAIL = "sys.modules['ms_unireid.commands.fake'] = types.SimpleNamespace(main=main)\nrun('fake')\n"


def run_main(body: str, *arguments: str, environment: dict | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", HEAD + f"    {body}\n{TAIL}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=60, env=environment)


def test_success():
    done = run_main("print(arguments)", "a=1", "b")
    assert (done.returncode, done.stdout, done.stderr) == (0, "['a=1', 'b']\n", "")


@pytest.mark.parametrize("kind", ["UserError", "ConfigError", "DataError", "CheckpointError", "EnvironmentProblem"])
def test_a_users_mistake_is_one_line(kind):
    done = run_main(f"raise {kind}('x.yaml: wrong key;\\n   did you mean y')")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: x.yaml: wrong key; did you mean y\n"


@pytest.mark.parametrize("name", ["a" * 5000, "none/a", "/dev/null/a"])
def test_a_path_that_the_system_refuses_is_one_line(name):
    done = run_main(f"os.stat({name!r})")
    assert (done.returncode, done.stdout) == (2, "") and "Traceback" not in done.stderr
    assert (
        done.stderr.startswith(f"error: {name[:400]}")
        and "; check this path" in done.stderr
        and done.stderr.count("\n") == 1
    )


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_stop_by_signal(number, code):
    done = run_main(f"raise Interrupted(signal.{number}, 'resume with train.resume=runs/x')")
    assert done.returncode == code
    assert done.stderr.count("\n") == 1 and "resume with train.resume=runs/x" in done.stderr


def test_ctrl_c_outside_training():
    done = run_main("os.kill(os.getpid(), signal.SIGINT); signal.pause()")
    assert (done.returncode, done.stderr) == (130, "stopped\n")


@pytest.mark.parametrize("body", ["[print('x' * 99) for _ in range(9999)]", "print('x' * 99999, end='')"])
def test_nobody_reads_to_the_end(body):
    script = (
        f"{HEAD}    {body}\nsys.modules['ms_unireid.commands.fake'] = types.SimpleNamespace(main=main)\nrun('fake')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as started:
        started.stdout.read(1)
        started.stdout.close()
        assert (started.stderr.read(), started.wait()) == (b"", 141)


def test_an_error_stands_on_its_own_line_below_a_progress_bar():
    done = run_main("import tqdm; sys.bar = tqdm.tqdm(total=3); sys.bar.update(); raise UserError('no')")
    *shown, last = done.stderr.splitlines()
    assert last == "error: no" and "1/3" in shown[-1]


@pytest.mark.parametrize("body", ["print('x' * 99)", "print('x', end='')"])
def test_a_full_disk_behind_stdout(body):
    command = [sys.executable, "-c", HEAD + f"    {body}\n{TAIL}"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, encoding="utf-8", timeout=60)
    assert done.returncode == 2
    assert (
        done.stderr == "error: stdout cannot be written (No space left on device); make room for what it is sent to\n"
    )


def test_our_own_mistakes_keep_their_traceback():
    done = run_main("raise ZeroDivisionError('ours')")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "ZeroDivisionError: ours" in done.stderr


def test_library_noise_goes_to_stderr():
    done = run_main("os.write(1, b'greetings from C\\n'); os.system('echo from a child'); print('table é')")
    assert (done.returncode, done.stdout) == (0, "table é\n")
    assert "greetings from C" in done.stderr and "from a child" in done.stderr


def test_results_reach_stdout_before_an_error():
    done = run_main("print('half', end=''); raise UserError('no')")
    assert (done.returncode, done.stdout, done.stderr) == (2, "half", "error: no\n")


@pytest.mark.parametrize("text", [b"x\xff", b"\xed\xa0\xbd", b"--checkpoint=\xe9"])
def test_an_argument_that_is_no_text_is_named(text):
    done = run_main("print(arguments)", "--split", os.fsdecode(text))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: argument 2, '") and done.stderr.count("\n") == 1


def test_a_caption_cannot_steer_the_terminal():
    text = "\x1b[2K\x9b1mred\u202ecoat\ud83d\tlast"
    done = run_main(f"import json; text = {text!a}; print(text); print(json.dumps(text, ensure_ascii=False))")
    shown, in_json = done.stdout.splitlines()
    assert shown == r"\u001b[2K\u009b1mred\u202ecoat\ud83d" + "\tlast"
    assert json.loads(in_json) == text


@pytest.mark.parametrize("changes", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}, {"LC_ALL": "POSIX", "LANG": ""}])
def test_a_narrow_terminal(changes):
    done = run_main("print(chr(0x7ea2)); raise UserError(chr(0x7ea2))", environment=os.environ | changes)
    assert (done.returncode, done.stdout) == (2, "\u7ea2\n") and "Traceback" not in done.stderr


def unireid(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "ms_unireid.commands.main", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_every_job_is_found_and_says_how_it_is_called():
    for job in JOBS:
        done = unireid(job, "--help")
        assert done.returncode == 0 and done.stdout.startswith(f"usage: unireid {job} "), done.stderr
    assert set(unireid("--help").stdout.split()) >= set(JOBS)


@pytest.mark.parametrize("job", JOBS)
def test_help_imports_nothing_heavy(job):
    command = [sys.executable, "-X", "importtime", "-m", "ms_unireid.commands.main", job, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    heavy = {"mindspore", "torch", "matplotlib", "nicegui", "mediapipe", "onnxruntime", "scipy.stats"}
    assert "ms_unireid.errors" in loaded and not loaded & heavy


def test_the_version():
    done = unireid("--version")
    assert (done.returncode, done.stdout) == (0, f"unireid {__version__}\n")


def test_an_unknown_job_is_one_line_and_the_list():
    assert "\x1b" not in unireid("tain\x1b").stderr
    done = unireid("tain")
    assert done.returncode == 2 and done.stderr.startswith("error: unknown job 'tain'; did you mean 'train'?")
    assert all(job in done.stderr for job in JOBS)
