"""Files and folders are written completely or not at all."""

import contextlib
import errno
import fcntl
import json
import math
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ms_unireid import files
from ms_unireid.errors import UserError
from ms_unireid.files import check_form, locked, open_regular, replacing, replacing_folder, write_json, write_text


def names(folder) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_text_and_json_round_trip(tmp_path):
    write_text(tmp_path / "new" / "folder" / "a.txt", "naïve\n")
    assert (tmp_path / "new" / "folder" / "a.txt").read_bytes() == "naïve\n".encode()
    write_json(tmp_path / "b.json", {"R1": 1 / 3, "name": "é"})
    assert json.loads((tmp_path / "b.json").read_text(encoding="utf-8")) == {"R1": 1 / 3, "name": "é"}


def test_the_new_file_appears_at_the_end_and_replaces_the_old(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with replacing(path) as temporary:
        temporary.write_text("new", encoding="utf-8")
        assert temporary.parent == path.parent and temporary.suffix == path.suffix
        assert path.read_text(encoding="utf-8") == "old"
    assert path.read_text(encoding="utf-8") == "new"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(("raised", "seen"), [(OSError(28, "No space left"), UserError), (KeyError("x"), KeyError)])
def test_a_failure_midway_leaves_the_old_file_alone(tmp_path, raised, seen):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(seen) as caught, replacing(path) as temporary:
        temporary.write_text("ne", encoding="utf-8")
        raise raised
    assert path.read_text(encoding="utf-8") == "old" and names(tmp_path) == ["a.txt"]
    if seen is UserError:
        assert str(path) in str(caught.value) and "No space left" in str(caught.value)


def test_a_failing_rename_is_reported_and_cleaned_up(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(13, "Permission denied")

    write_text(tmp_path / "a.txt", "old")
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UserError, match=r"a\.txt: cannot be written \(Permission denied\)"):
        write_text(tmp_path / "a.txt", "new")
    monkeypatch.undo()
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "old" and names(tmp_path) == ["a.txt"]


def test_a_leftover_of_a_killed_run_is_no_obstacle(tmp_path):
    with replacing(tmp_path / "a.txt") as temporary:
        leftover = temporary
        temporary.write_text("x", encoding="utf-8")
    leftover.write_text("half of an earlier", encoding="utf-8")
    write_text(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "whole" and names(tmp_path) == ["a.txt"]


def test_a_file_in_the_way_of_the_folder_is_reported(tmp_path):
    (tmp_path / "taken").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be written"):
        write_text(tmp_path / "taken" / "a.txt", "x")


def test_a_new_folder_takes_the_place_of_the_old_with_all_in_it(tmp_path):
    path = tmp_path / "new" / "a"
    for content in ("old", "new"):
        with replacing_folder(path) as folder:
            write_text(folder / f"{content}.txt", content)
            assert names(path) == ["old.txt"] if path.exists() else content == "old"
        assert (names(path), names(path.parent)) == ([f"{content}.txt"], ["a"])


@pytest.mark.parametrize(("raised", "seen"), [(OSError(28, "No space left"), UserError), (KeyError("x"), KeyError)])
def test_a_failure_midway_leaves_the_old_folder_alone(tmp_path, raised, seen):
    write_text(tmp_path / "a" / "old.txt", "old")
    with pytest.raises(seen), replacing_folder(tmp_path / "a") as folder:
        write_text(folder / "new.txt", "new")
        raise raised
    assert (names(tmp_path), names(tmp_path / "a")) == (["a"], ["old.txt"])


def test_an_old_folder_comes_back_if_the_new_one_cannot_take_its_place(tmp_path):
    write_text(tmp_path / "a" / "old.txt", "old")
    with pytest.raises(UserError, match="cannot be written"), replacing_folder(tmp_path / "a") as folder:
        folder.rmdir()
    assert (names(tmp_path), names(tmp_path / "a")) == (["a"], ["old.txt"])


def test_only_regular_files_are_opened(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "link").symlink_to("a")
    os.mkfifo(tmp_path / "pipe")
    for name in ("a", "link"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"x"
    for path in (tmp_path / "pipe", tmp_path, "/dev/zero", tmp_path / "none", "a\0b", "\ud83d"):
        with pytest.raises(OSError):
            open_regular(path)


def test_text_that_is_no_unicode_is_written_as_escapes(tmp_path):
    write_json(tmp_path / "a.json", {"name": "\udcff"})
    assert json.loads((tmp_path / "a.json").read_bytes().decode("utf-8")) == {"name": "\udcff"}


def test_a_lock_keeps_others_out_until_its_process_dies(tmp_path):
    lock = tmp_path / "folder" / ".lock"
    code = "import sys, pathlib, ms_unireid.files as files; lock = files.locked(pathlib.Path(sys.argv[1])); "
    code += "print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        with pytest.raises(UserError, match=f"{lock.parent}: another process is changing this folder"):
            locked(lock)
        holder.kill()
    with locked(lock):
        pass


def test_a_lock_waits_where_it_is_told_to(tmp_path, monkeypatch):
    told, said = [], threading.Event()
    # Not by capsys: what is printed while it is read can be lost.
    monkeypatch.setattr(files, "print", lambda words, file: (told.append(words), said.set()), raising=False)
    with locked(tmp_path / ".lock") as held, ThreadPoolExecutor() as pool:
        waiting = pool.submit(locked, tmp_path / ".lock", "waiting for the other")
        assert said.wait(60) and not waiting.done()
        held.close()
        waiting.result().close()
    assert told == ["waiting for the other"]


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_a_lock_is_a_plain_file(tmp_path, kind):
    lock, target = tmp_path / ".lock", tmp_path / "precious"
    target.write_text("kept", encoding="utf-8")
    {"link": lambda: lock.symlink_to(target), "folder": lock.mkdir, "pipe": lambda: os.mkfifo(lock)}[kind]()
    with pytest.raises(UserError, match=r"\.lock: is not a plain file"):
        locked(lock)
    assert target.read_text(encoding="utf-8") == "kept"


def test_a_lock_keeps_what_its_file_holds(tmp_path):
    write_text(tmp_path / ".lock", "kept")
    locked(tmp_path / ".lock").close()
    assert (tmp_path / ".lock").read_text(encoding="utf-8") == "kept"


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    locked(tmp_path / ".lock").close()
    assert f"{tmp_path / '.lock'}: cannot be locked (No locks available)" in capsys.readouterr().err


FORM = {"rows": [{"task": {"text", "sketch"}, "R1": (float, None)}], str: int}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"rows": [{"task": "text", "R1": 1}, {"task": "sketch", "R1": None, "more": []}], "n": 3}, None),
        ([], r"content is \[\]; expected a dictionary"),
        ({}, "content has no 'rows'"),
        ({"rows": {}}, r"content\['rows'\] is {}; expected a list"),
        ({"rows": [{"task": 5, "R1": 1.0}]}, r"\['rows'\]\[0\]\['task'\] is 5; expected one of sketch, text"),
        ({"rows": [{"task": "text", "R1": math.nan}]}, r"\['R1'\] is nan; expected a finite number or null"),
        ({"rows": [{"task": "text", "R1": 10**400}]}, r"\['R1'\] is .*; expected a finite number"),
        ({"rows": [], "n": True}, r"content\['n'\] is True; expected a whole number"),
    ],
    ids=str,
)
def test_forms(value, words):
    with contextlib.nullcontext() if words is None else pytest.raises(ValueError, match=words):
        check_form(value, FORM)
