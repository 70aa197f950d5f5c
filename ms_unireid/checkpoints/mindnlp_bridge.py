"""Export a Hugging Face CLIP through MindNLP, which runs in a child process."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from ms_unireid import errors
from ms_unireid.checkpoints import mindnlp_child
from ms_unireid.errors import CheckpointError, EnvironmentProblem
from ms_unireid.installation import child_command, install_extra

_ENVIRONMENT = {
    # MindNLP's default is a mirror. A value that the user sets has priority.
    "HF_ENDPOINT": "https://huggingface.co",
    # Reading weights needs no accelerator.
    "DEVICE_TARGET": "CPU",
}


def export_clip(name_or_path: str, file: Path) -> None:
    """Load a Hugging Face CLIP with MindNLP, and write it as safetensors that `open_source` reads.

    The tensors are float32 with Hugging Face's names; the metadata has "config.json". MindNLP's output goes to stderr.
    The name is one on the Hugging Face hub, such as "openai/clip-vit-base-patch16", or a folder.

    If anything fails, no file is written: without MindNLP an EnvironmentProblem is raised, a CheckpointError if it
    cannot load a complete CLIP or its process dies, a UserError if the file cannot be written.
    """
    if importlib.util.find_spec("mindnlp") is None:
        raise EnvironmentProblem(
            f"{name_or_path}: MindNLP is not installed; install it in a separate environment "
            f"({install_extra('mindnlp')}) and run this there, or "
            "download the model's folder and convert that, which needs no MindNLP"
        )
    path = Path(name_or_path)
    if path.exists() and not (path / "config.json").is_file():
        raise CheckpointError(f"{path}: has no config.json; expected a Hugging Face folder of a CLIP")
    code, last_line = _run([name_or_path, str(file)])
    if code:
        raise _failure(name_or_path, code, last_line)


def _run(arguments: list[str]) -> tuple[int, str]:
    """Run the child, print its output except for the last line, and return exit code and last line."""
    command = child_command(mindnlp_child.__name__, *arguments)
    environment = {**_ENVIRONMENT, **os.environ}
    last = ""
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
    ) as child:
        for line in filter(str.strip, child.stderr):
            print(last, end="", file=sys.stderr)
            last = line
    if child.returncode == 0:
        print(last, end="", file=sys.stderr)
    return child.returncode, last.strip()


def _failure(name: str, code: int, last_line: str) -> errors.UserError:
    """Return the error that the child reports, or how it died."""
    kind, _, message = last_line.partition(": ")
    if code == mindnlp_child.USER_ERROR and kind in ("CheckpointError", "EnvironmentProblem", "UserError"):
        return getattr(errors, kind)(message)
    how = f"signal {-code}" if code < 0 else f"code {code}"
    return CheckpointError(
        f"{name}: MindNLP's process ended with {how} ({last_line or 'no output'}); try again, or download the "
        "model's folder and convert that, which needs no MindNLP"
    )
