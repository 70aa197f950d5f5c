"""One archive for the maintainers when something fails: what was found on a machine, without data and names.

Standard library only, as `machine`. What names a person, a machine or a place is replaced in every text: the user, the
host, paths outside the system and the installed packages, pictures, addresses.
"""

import getpass
import json
import os
import platform
import re
import socket
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ms_unireid import __version__
from ms_unireid.apps.checks.accelerators import run
from ms_unireid.data.findings import Finding, to_json
from ms_unireid.files import replacing

_FILES, _BYTES = 60, 1 << 17  # logs, and how much of the end of each is taken
_LONGEST = 4000  # characters of a line
_LOGS = ("*.log", "log.jsonl", "environment.json", "dry_run*.md")  # of msrun, of CANN (plog), of a run and the doctor
_PATHS = {"root", "captions", "trials", "output", "pretrained", "resume", "decoded_cache"}  # keys of a config
_COMMANDS = (
    "npu-smi info",
    "npu-smi info -t topo",
    "nvidia-smi",
    "nvidia-smi topo -m",
    "$CUDA_HOME/bin/nvcc --version",
    "lscpu",
)
_VERSIONS = (
    "$ASCEND_HOME_PATH/compiler/version.info",
    "/usr/local/Ascend/driver/version.info",
    "/usr/local/Ascend/firmware/version.info",
    "/etc/os-release",
)
_VARIABLES = re.compile(
    "(?!.*(KEY|TOKEN|SECRET|PASS))(MS|GLOG|ASCEND|HCCL|HCCN|CUDA|NCCL|NVIDIA|RANK|OMP|ONEDNN|DNNL|TE|ATB|MALLOC|LC|DEVICE)_.*"
    "|LD_LIBRARY_PATH|LD_PRELOAD|PYTHONPATH|LANG"
)
_PICTURE = r"\.(?:jpe?g|jpe|jfif|png|webp|avif|gif|tiff?|bmp|ppm|heic|mpo)\b"
_WORD = r"[^\s'\"`:;,()\[\]{}<>|*?=]*"
# The rest of a path: blanks belong to it in quotes and before a picture's suffix.
_END = rf"(?:[^\n'\"`:;<>|]*?(?i:{_PICTURE})|{_WORD})"
_PATH = re.compile(
    rf"(?<=[\"'])(?:~|\.{{0,2}})/[^\"'\n]+(?=[\"'])|(?<![\w.<>/$-])(?:~|\.{{0,2}}(?=/)|[A-Za-z]:(?=\\))[/\\]{_END}(?<![/\\])"
)
_SYSTEM = ("/usr/", "/lib/", "/lib64/", "/dev/", "/proc/", "/sys/", "/etc/", "/bin/", "/sbin/")
# From a folder of this name on, a path tells of installed software.
_SOFTWARE = re.compile(
    r"(cuda|cudnn|cann|ascend|ascend-toolkit|nnal|hccl|nvidia|\w+-packages|mindspore|ms_unireid)[-.\d]*", re.I
)
_OTHERS = (
    (re.compile(rf"{_WORD}{_PICTURE}", re.I), "<picture>"),
    (re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]+"), "<mail>"),
    (re.compile(r"(?<![\d.])(?!127\.)\d{1,3}(\.\d{1,3}){3}(?![\d.])"), "<address>"),
    (re.compile(r"\b[\da-f]{1,4}(:[\da-f]{0,4}){4,}\b", re.I), "<address>"),
)


class Scrubber:
    """Replaces names in texts.

    Args:
        places: Files and folders of the user, whose paths are replaced whatever they are.
    """

    def __init__(self, places: Iterable[str | Path] = ()):
        paths = {str(path) for place in places for path in (place, os.path.abspath(place), os.path.realpath(place))}
        # The default, data, is a word of many messages: it counts with what follows it only.
        patterns = (re.escape(path) + ("/" if path == "data" else r"(?!\w)") for path in sorted(paths, reverse=True))
        self.places = re.compile("|".join(rf"(?<![\w./-]){pattern}{_END}" for pattern in patterns) or "(?!)")
        found = {word: f"<{kind}>" for kind, words in _identities().items() for word in words}
        self.words = {word.lower(): kind for word, kind in found.items() if len(word) > 1}
        names = "|".join(map(re.escape, sorted(self.words, key=len, reverse=True)))
        self.names = re.compile(rf"(?<![^\W_])(?:{names})(?![^\W_])" if names else "(?!)", re.I)

    def __call__(self, text: str) -> str:
        """Return a text without names; very long lines are cut."""
        return "\n".join(self._line(line[:_LONGEST]) for line in text.split("\n"))

    def _line(self, text: str) -> str:
        text = _PATH.sub(lambda found: _shortened(found[0]), self.places.sub("<path>", text))
        for pattern, word in _OTHERS:
            text = pattern.sub(word, text)
        return self.names.sub(lambda found: self.words[found[0].lower()], text)

    def values(self, value: Any) -> Any:
        """Return a value of JSON with all its texts scrubbed."""
        if isinstance(value, dict):
            return {key: self.values(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.values(item) for item in value]
        return self(value) if isinstance(value, str) else value


def _identities() -> dict[str, set[str]]:
    """Return the names of the user and of the machines, but those that every machine has."""
    users = {os.environ.get(name, "") for name in ("USER", "LOGNAME", "SUDO_USER")} | {Path.home().name}
    with suppress(Exception):  # a container's user may have no name
        import pwd

        users |= {getpass.getuser(), *pwd.getpwuid(os.getuid()).pw_gecos.split(",")[0].split()}
    hosts = {socket.gethostname(), platform.node(), os.environ.get("MS_SCHED_HOST", ""), os.environ.get("HOSTNAME", "")}
    hosts |= {host.split(".")[0] for host in hosts if not host[:1].isdigit()}
    return {"user": users - {"root", ""}, "host": hosts - {"localhost", "127.0.0.1", ""}}


def _shortened(path: str) -> str:
    if path.startswith(_SYSTEM):
        return path
    parts = re.split(r"[/\\]", path)
    known = next((number for number, part in enumerate(parts) if _SOFTWARE.fullmatch(part)), len(parts))
    return "/".join(["<path>", *parts[known:]])


def write_report(
    path: Path,
    findings: Sequence[Finding],
    config: Any,
    outputs: Mapping[str, str],
    logs: Sequence[Path] = (),
) -> None:
    """Write the archive.

    Args:
        path: A `.zip` file; it is replaced as a whole, or stays as it was.
        findings: What the doctor found.
        config: The checked config; None if it cannot be read.
        outputs: Name to text: what failing checks printed, and further tables.
        logs: Folders with logs; the ends of the newest files are taken.

    Raises:
        UserError: If the archive cannot be written.
    """
    values, places = _config_of(config)
    scrub = Scrubber([*places, *logs])
    machine = {"ms_unireid": __version__, "python": platform.python_version(), "platform": platform.platform()}
    with suppress(ImportError):  # a package of the config is missing
        from ms_unireid.runtime import describe

        machine |= {"git_revision": describe("")["git_revision"]}
    variables = {name: os.environ[name] for name in sorted(os.environ) if _VARIABLES.fullmatch(name)}
    report = {**machine, "variables": variables, "config": values, "findings": to_json(findings)}
    members = {
        "report.json": json.dumps(scrub.values(report), indent=2, ensure_ascii=False),
        "devices.txt": scrub("\n".join(_devices())),
        **{f"outputs/{name}": scrub(text) for name, text in outputs.items()},
        **{f"logs/{re.sub('[<>]', '', scrub(name))}": scrub(text) for name, text in _logs(logs)},
    }
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text.encode(errors="backslashreplace"))


def _config_of(config: Any) -> tuple[dict[str, Any], list[str]]:
    """Return a config as dictionaries without its paths, and the paths."""
    if config is None:
        return {}, []
    from ms_unireid.config import to_dict

    values, places = to_dict(config), []
    for section in values.values():
        for key in _PATHS & section.keys():
            if section[key] not in (None, "auto"):
                places.append(section[key])
                section[key] = "<path>"
    return values, places


def _devices() -> Iterator[str]:
    for line in _COMMANDS:
        yield f"$ {line}\n{run(os.path.expandvars(line).split()) or 'not there'}"
    for name in _VERSIONS:
        with suppress(OSError):
            yield f"$ cat {name}\n{Path(os.path.expandvars(name)).read_text(errors='replace')}"


def _logs(folders: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """Yield a name and the end of each of the newest logs."""
    files = {file for folder in folders for pattern in _LOGS for file in folder.rglob(pattern) if file.is_file()}
    newest = sorted(files, key=lambda file: file.stat().st_mtime_ns)[-_FILES:]
    for number, file in enumerate(newest):
        with file.open("rb") as opened:
            opened.seek(max(0, file.stat().st_size - _BYTES))
            yield f"{number:02d}_{file.name}", opened.read(_BYTES).decode(errors="replace")
