"""The command `unireid JOB ...`: runs a job and reports a user's mistake in one line with exit code 2."""

import contextlib
import difflib
import importlib
import io
import os
import re
import signal
import sys
from collections.abc import Sequence

from ms_unireid import __version__
from ms_unireid.errors import Interrupted, UserError, escaped, is_unicode, shown

USER_ERROR = 2
# Control characters but tab and line feed, and those that change the direction of writing.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_LONGEST_LINE = 4000
JOBS = {
    "train": "train a UNIReID, with evaluations during training",
    "show-batch": "draw a batch as the network sees it",
    "evaluate": "evaluate checkpoints by the paper's protocols",
    "convert": "convert a checkpoint from or to PyTorch",
    "reproduce": "train and evaluate what a table of the paper needs",
    "verify": "check a data set",
    "sketches": "draw sketches of photos",
    "synthetic": "make the synthetic data set",
    "search": "index photos and search them by text, sketch or both",
    "app": "open the search page",
    "export": "export a checkpoint as MindIR and ONNX",
    "doctor": "check packages, devices, memory, disk and data",
    "benchmark": "measure speed and memory against PyTorch",
}


def cli() -> None:
    """Run `unireid JOB ARGUMENTS` from Python's command line and exit."""
    job = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if job in JOBS:
        sys.argv = [f"unireid {job}", *sys.argv[2:]]
        run(job)
    listed = "\n".join(f"  {name:10} {what}" for name, what in JOBS.items())
    usage = f"usage: unireid JOB [options]\n\n{listed}\n\nunireid JOB --help lists the options of a job"
    answers = {"-h": usage, "--help": usage, "--version": f"unireid {__version__}"}
    if job in answers:
        print(answers[job])
        sys.exit(0)
    job = escaped(job)
    near = difflib.get_close_matches(job, JOBS, n=1, cutoff=0.0)[0]
    print(f"error: unknown job '{job}'; did you mean '{near}'?\n{usage}", file=sys.stderr)
    sys.exit(USER_ERROR)


def run(job: str) -> None:
    """Run a job with Python's command line and exit: 0 done, 2 a user's mistake, 128 + n after signal n.

    If nobody reads stdout any more, as after `| head`, it ends quietly as by SIGPIPE. A mistake is one line on stderr,
    without a traceback or a control character that a file put into it.
    """
    noise = _keep_stdout_for_results()
    code = 0
    try:
        _check_arguments(sys.argv[1:])
        try:
            importlib.import_module(f"ms_unireid.commands.{job.replace('-', '_')}").main(sys.argv[1:])
        finally:
            _end_progress_bars()
            _tell(noise)
    except SystemExit as stop:  # argparse, after --help
        code = stop.code
    except BrokenPipeError:
        code = 128 + signal.SIGPIPE
    except UserError as error:
        code = _report(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        # A path that no check foresaw: too long, without permission, or on a disk that fails.
        code = _report(f"{escaped(str(error.filename), 500)}: {error.strerror}; check this path and its permissions")
    except Interrupted as error:
        print(error, file=sys.stderr)
        code = 128 + error.signal_number
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        code = 128 + signal.SIGINT
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at Python's exit
        if isinstance(error, BrokenPipeError):
            code = code or 128 + signal.SIGPIPE
        elif not code:  # else it is told already
            code = _report(_no_room(error))
    sys.exit(code)


def _report(mistake: str) -> int:
    print(f"error: {escaped(' '.join(mistake.split()), _LONGEST_LINE)}", file=sys.stderr)
    return USER_ERROR


def _check_arguments(arguments: Sequence[str]) -> None:
    for number, text in enumerate(arguments, 1):
        if not is_unicode(text):
            raise UserError(
                f"argument {number}, {shown(text)}: is not {sys.getfilesystemencoding().upper()} text; rename the file "
                "that it names, or set a locale such as LC_ALL=C.UTF-8"
            )


class _Results(io.TextIOWrapper):
    """Stdout: what a caption or name would do to a terminal is shown as an escape, which JSON reads back."""

    def write(self, text: str) -> int:
        try:
            return super().write(_CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text))
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UserError(_no_room(error)) from error


def _no_room(error: OSError) -> str:
    return f"stdout cannot be written ({error.strerror}); make room for what it is sent to"


def _end_progress_bars() -> None:
    """End the line of each open bar, which tqdm otherwise shows again behind an error."""
    for bar in list(getattr(getattr(sys.modules.get("tqdm"), "tqdm", None), "_instances", ())):
        bar.close()


def _keep_stdout_for_results() -> int:
    """Keep what compiled libraries print on stdout apart; return its file, for `_tell`."""
    sys.stdout.flush()
    results = os.fdopen(os.dup(1), "wb")
    noise = os.memfd_create("noise") if hasattr(os, "memfd_create") else os.dup(2)
    os.dup2(noise, 1)
    sys.stdout = _Results(results, encoding="utf-8", errors="backslashreplace", line_buffering=True)
    return noise


def _tell(noise: int) -> None:
    """Write what libraries printed to stderr, but for the settings that MindSpore prints at every start."""
    with contextlib.suppress(OSError):  # without memfd_create it is there already
        os.lseek(noise, 0, os.SEEK_SET)
        with os.fdopen(noise, "rb") as file:
            os.write(2, b"".join(line for line in file if not line.startswith((b"[MS_RUNTIME_PROF]", b"[MS_DEV_"))))


if __name__ == "__main__":
    cli()
