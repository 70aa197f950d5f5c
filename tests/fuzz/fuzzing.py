"""What the fuzz tests share: how many files each tries, how files are damaged, and what a reader may do with them."""

import contextlib
import os
import resource
import signal
import sys
import time
import unicodedata

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from ms_unireid.errors import UserError

# `make fuzz` sets it; the suite tries one file in forty, always the same ones.
_MINUTES = float(os.environ.get("FUZZ_MINUTES", 0))
_END = time.monotonic() + 60 * _MINUTES
_SECONDS = 5  # of processor time for one file
_MEMORY = 1 << 30  # bytes above what the process has already
# Audit events of code that a file must not start.
_FORBIDDEN = ("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "subprocess.Popen", "socket.connect",
              "exec", "compile", "shutil.rmtree", "os.remove", "os.rename")  # fmt: skip
# Characters that a terminal does not show: controls, line breaks, surrogates.
_UNSEEN = {"Cc", "Cs", "Zl", "Zp"}
_watched: list[str] | None = None

_TOKENS = [
    b"", b"\x00", b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff" * 8, b"[" * 3000, b"{" * 3000, b'"', b"'", b"\n", b"\r",
    b"\xef\xbb\xbf", b"\\ud83d", b"\xed\xa0\xbd", b"\xe2\x80\xa8", b"NaN", b"-1", b"1e999", b"9" * 5000, b"null",
    b"true", b",", b":", b"../", b"&a *a", b"!!python/object/apply:os.system", b"2026-02-30",
]  # fmt: skip


def tries(count):
    """Settings of a fuzz test: `count` files under `make fuzz`."""
    return settings(
        max_examples=count if _MINUTES else max(5, count // 40),
        derandomize=not _MINUTES,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def damaged(draw, files):
    """Draw one of the files, {name: bytes}, with a few places overwritten, cut, repeated or filled; and its name."""
    name = draw(st.sampled_from(sorted(files)))
    data = files[name]
    for _ in range(draw(st.integers(1, 4))):
        # Half of the places are near the beginning, where headers are.
        start = draw(st.integers(0, min(len(data), 200)) | st.integers(0, len(data)))
        length = draw(st.sampled_from([0, 1, 1, 2, 4, 8, 64, 1 << 20]))
        put = draw(
            st.binary(min_size=1, max_size=8)
            | st.sampled_from(_TOKENS)
            | st.integers(0, len(data)).map(lambda place, data=data: data[place : place + 64])
        )
        data = data[:start] + put + data[start + length :]
    return name, data


@contextlib.contextmanager
def harmless():
    """Bound what the block may do: 5 s of processor time, 1 GiB of memory, no other program, no code of the file.

    At the end of `make fuzz`'s time the test is skipped.
    """
    global _watched
    if _MINUTES and time.monotonic() > _END:
        pytest.skip(f"{_MINUTES:g} minutes are over")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    signal.signal(signal.SIGPROF, _too_long)
    with open("/proc/self/statm") as statm:
        pages = int(statm.read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _MEMORY, hard))
    signal.setitimer(signal.ITIMER_PROF, _SECONDS)
    _watched = started = []
    try:
        yield
    finally:
        _watched = None
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert not started, started


def outcome(read, *arguments):
    """Call a reader harmlessly; return its result, or None if it refused in one short line."""
    with harmless():
        try:
            return read(*arguments)
        except UserError as error:
            refusal = str(error)
    assert not _UNSEEN & set(map(unicodedata.category, refusal)), ascii(refusal)
    assert len(refusal) < 1500, refusal[:1500]
    return None


def _too_long(*_):
    raise AssertionError(f"more than {_SECONDS} s of processor time")


def _watch(event, arguments):
    if _watched is not None and event in _FORBIDDEN and not _is_import(event, arguments):
        _watched.append(f"{event} {arguments!r:.200}")


def _is_import(event, arguments):
    file = arguments[1] if event == "compile" else getattr(arguments[0], "co_filename", "") if event == "exec" else ""
    return isinstance(file, str) and file.endswith(".py") and os.path.isfile(file)


sys.addaudithook(_watch)
