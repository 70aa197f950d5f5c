"""Starts scripts in several processes as users do: with msrun, on the loopback interface."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 300  # seconds; msrun needs about twenty before and after the script, and half a minute more for a failure
SHOWN = 4000  # characters of each log in a failure


class Launched(NamedTuple):
    """The result of a launch: the exit code, None after a timeout, and all output."""

    returncode: int | None
    output: str
    logs: dict[str, str]

    def explain(self) -> str:
        """Describe a failure: the end of every process's log, and of what msrun said."""
        texts = {"msrun": self.output, **self.logs}
        return "\n".join([f"exit code {self.returncode}", *(f"--- {n}\n{t[-SHOWN:]}" for n, t in texts.items())])


def launch(script: Path, *arguments: object, folder: Path, processes: int = 2, limit: int = LIMIT) -> Launched:
    """Run a script in several processes, in and with their logs in `folder`, and wait for their end."""
    folder.mkdir(parents=True, exist_ok=True)
    options = (
        f"--worker_num={processes} --local_worker_num={processes} --master_addr=127.0.0.1 "
        f"--master_port={free_port()} --join=True --log_dir={folder}"
    ).split()
    environment = {
        **os.environ,
        # msrun starts whatever is called python.
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))),
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
        "GLOG_v": "3",  # errors only
    }
    started = subprocess.Popen(
        [sys.executable, "-m", "mindspore.parallel.cluster.run", *options, str(script), *map(str, arguments)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, returncode = started.communicate(timeout=limit)[0], started.returncode
    except subprocess.TimeoutExpired:
        started.send_signal(signal.SIGINT)  # the one signal at which msrun ends its processes
        output, returncode = started.communicate(timeout=limit)[0], None
    finally:
        started.kill()
    logs = {file.stem: file.read_text(encoding="utf-8", errors="replace") for file in sorted(folder.glob("*.log"))}
    return Launched(returncode, output, logs)


def free_port() -> int:
    """Find a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
