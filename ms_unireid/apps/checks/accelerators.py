"""What MindSpore's plugins need of a machine to see its GPU or Ascend; MindSpore itself does not say what lacks.

Standard library only. No library is loaded: `ldd` names those that the loader would not find.
"""

import importlib.util
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from ms_unireid.data.findings import Finding, State

DRIVERS = {"Ascend": Path("/dev/davinci_manager"), "GPU": Path("/dev/nvidiactl")}  # they exist where a driver does
_SECONDS = 30  # that a command may take
_Lack = tuple[str, str]  # what lacks, and its fix


def run(command: Sequence[str | Path]) -> str:
    """Return what a command prints; an empty text if it is missing or does not end."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr


def check_accelerator(device: str, state: State) -> list[Finding]:
    """Return a finding of this state for each thing that MindSpore needs to see a GPU or Ascend and does not find."""
    lacks = list({"GPU": _gpu, "Ascend": _ascend}[device]())
    if not lacks:
        fix = "run GLOG_v=1 python -c 'import mindspore' and look for 'Load dynamic library' and the lines around it"
        lacks = [("all that MindSpore's plugin links to is there, and yet MindSpore does not see it", fix)]
    return [Finding(device, state, *lack) for lack in lacks]


def check_communication(devices: int) -> list[Finding]:
    """Return a warning if there are several Ascend devices and not the package that connects their processes."""
    lacks = _modules("hccl") if devices > 1 else ()
    return [Finding("Ascend", "warning", f"{what}: only one process can be started", fix) for what, fix in lacks]


def _gpu() -> Iterator[_Lack]:
    container = "in a container, start it with the GPUs (docker run --gpus all)"
    if not DRIVERS["GPU"].exists():
        yield f"{DRIVERS['GPU']} does not exist: no driver", f"install NVIDIA's driver; {container}"
    plugins = {tuple(map(int, file.name.split(".")[-2:])): file for file in _plugins("gpu")}
    if not plugins:
        yield _no_plugin("GPU")
        return
    cuda, lacks = _cuda(sorted(plugins))
    yield from lacks
    missing = _missing_libraries(plugins[cuda])
    version = ".".join(map(str, cuda))
    fixes = {
        "libcudnn": f"put the folder of cuDNN 8 for CUDA {version} on LD_LIBRARY_PATH",
        "libcuda.": f"install NVIDIA's driver; {container}",
        "": f"put $CUDA_HOME/lib64 of CUDA {version} on LD_LIBRARY_PATH",
    }
    yield from _grouped(missing, fixes)


def _cuda(plugins: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], list[_Lack]]:
    """Return which plugin MindSpore takes, that of nvcc's release or the nearest one below, and what lacks."""
    newest = plugins[-1]
    known = " and ".join(".".join(map(str, one)) for one in plugins)
    fix = f"install the toolkit of CUDA {'.'.join(map(str, newest))} and export CUDA_HOME=/usr/local/cuda-FOLDER"
    home = os.environ.get("CUDA_HOME", "")
    if not home:
        return newest, [("CUDA_HOME is not set; without it MindSpore looks for no GPU", fix)]
    nvcc = Path(home, "bin", "nvcc")
    found = re.search(r"Cuda compilation tools, release (\d+)\.(\d+),", run([nvcc, "--version"]))
    if not found:
        return newest, [(f"{nvcc} --version names no release, which MindSpore asks it for", fix)]
    release = int(found[1]), int(found[2])
    fitting = [one for one in plugins if one[0] == release[0] and one <= release]
    if not fitting:
        told = ".".join(map(str, release))
        return newest, [(f"{nvcc} is of CUDA {told}; MindSpore's package has plugins for {known}", fix)]
    return fitting[-1], []


def _ascend() -> Iterator[_Lack]:
    yield from _ascend_driver()
    source = "source CANN's set_env.sh (in /usr/local/Ascend/cann; before 8.5 in ascend-toolkit) before the start"
    for name in ("ASCEND_HOME_PATH", "ASCEND_OPP_PATH"):
        if not os.path.isdir(os.environ.get(name, "")):
            told = os.environ.get(name)
            yield f"{name} is {f'{told}, which is no folder' if told else 'not set'}", source
    yield from _modules("te", "hccl")
    plugins = _plugins("ascend")
    if not plugins:
        yield _no_plugin("Ascend")
        return
    fixes = {
        "libascend_hal": "put the driver's folders lib64/driver and lib64/common on LD_LIBRARY_PATH (set_env.sh does)",
        "": source,
    }
    yield from _grouped(_missing_libraries(plugins[-1]), fixes)


def _ascend_driver() -> Iterator[_Lack]:
    file = DRIVERS["Ascend"]
    if not file.exists():
        container = "in a container, give it /dev/davinci0 and so on, davinci_manager, devmm_svm and hisi_hdc"
        fix = f"install Ascend's driver and firmware until npu-smi info lists the devices; {container}"
        yield f"{file} does not exist: no driver", fix
    elif not os.access(file, os.R_OK | os.W_OK):
        yield f"{file} is not open to you", "add your user to the group HwHiAiUser, and log in again"


def _modules(*names: str) -> Iterator[_Lack]:
    for name in names:
        if importlib.util.find_spec(name) is None:
            fix = f"source CANN's set_env.sh; if it stays missing, pip install $ASCEND_HOME_PATH/lib64/{name}-*.whl"
            yield f"the Python package {name} of CANN is missing", fix


def _plugins(name: str) -> list[Path]:
    """Return the files of a plugin in MindSpore's package, which is not imported."""
    (package,) = importlib.util.find_spec("mindspore").submodule_search_locations
    return sorted(Path(package, "lib", "plugin").glob(f"libmindspore_{name}.so.*"))


def _no_plugin(device: str) -> _Lack:
    return f"MindSpore's package has no plugin for {device}", "install MindSpore's package for Linux"


def _missing_libraries(file: Path) -> list[str]:
    return sorted(set(re.findall(r"(\S+) => not found", run(["ldd", file]))))


def _grouped(missing: Sequence[str], fixes: dict[str, str]) -> Iterator[_Lack]:
    """Yield one lack for all libraries with the same fix, which the first fitting beginning of their names tells."""
    left = list(missing)
    for beginning, fix in fixes.items():
        if found := [name for name in left if name.startswith(beginning)]:
            yield f"the loader does not find {', '.join(found)}", fix
        left = [name for name in left if name not in found]
