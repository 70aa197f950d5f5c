"""The environment of a run: package versions, device, execution mode, and the processes that train together."""

import gc
import importlib
import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ms_unireid.errors import ConfigError, EnvironmentProblem, one_line
from ms_unireid.installation import INFINITE, NO_PIPELINE, OVERFLOW_MODE, PIPELINE, SATURATED

if TYPE_CHECKING:
    from ms_unireid.config import Config, RuntimeConfig, TrainConfig

OLDEST_MINDSPORE, FIRST_UNSUPPORTED_MINDSPORE = (2, 7), (2, 11)
# oneDNN multiplies MindSpore's matrices on a CPU. With this variable it takes bfloat16 where the processor has AMX;
# with AVX512-BF16 alone it was measured to change nothing: see models/bfloat16.py.
FPMATH_MODE, AMX, AVX512 = "ONEDNN_DEFAULT_FPMATH_MODE", "amx_bf16", "avx512_bf16"
_CPUINFO = Path("/proc/cpuinfo")
_LAUNCHED_BY_MSRUN = "MS_ROLE"  # a variable that msrun sets in its processes
# These variables change speed or numbers; see docs/hardware.md.
_REPORTED_VARIABLES = (
    PIPELINE,
    OVERFLOW_MODE,
    "MS_SIMULATION_LEVEL",
    "MS_DEV_HOST_BLOCKING_RUN",
    "MS_ALLOC_CONF",
    "HCCL_DETERMINISTIC",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    FPMATH_MODE,
)
_REPORTED_PACKAGES = ("ms-unireid", "mindspore", "mindcv", "numpy", "scipy", "pillow", "tokenizers", "ftfy", "openvino")


@dataclass(frozen=True)
class Processes:
    """How many processes train together, and which of them this one is."""

    rank: int = 0  # 0 to size - 1
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process logs and writes files."""
        return self.rank == 0

    def block(self, count: int) -> slice:
        """Return this process's part of `count` items: blocks of equal length in rank order, the last ones shorter."""
        length = -(-count // self.size)
        return slice(min(self.rank * length, count), min((self.rank + 1) * length, count))


ALONE = Processes()


def smallest_share(train: "TrainConfig") -> int:
    """Return the pairs of a batch that each process needs: alone, a pair has nothing to be contrasted with."""
    return 1 if train.global_batch_objective and train.accumulation_steps == 1 else 2


def check_batch_size(config: "Config", processes: Processes) -> None:
    """Raise a ConfigError if the processes cannot split the global batch evenly, or one gets too few pairs."""
    batch_size, least = config.data.batch_size, smallest_share(config.train) * processes.size
    if batch_size % processes.size:
        below = batch_size - batch_size % processes.size
        choices = " or ".join(map(str, sorted({max(below, least), max(below + processes.size, least)})))
        raise ConfigError(
            f"data.batch_size={batch_size} cannot be split evenly among {processes.size} processes; "
            f"set it to {choices}, or start another number of processes"
        )
    if batch_size < least:
        raise ConfigError(
            f"data.batch_size={batch_size} gives each of {processes.size} processes a single pair, whose loss is zero; "
            f"set it to {least} or more"
        )


def check_packages() -> None:
    """Check MindSpore's version before it is imported, and numpy's: 2 crashes MindSpore's kernels.

    A version that cannot be used raises an EnvironmentProblem.
    """
    mindspore, numpy = _version("mindspore"), _version("numpy")
    wanted = "install it with: pip install 'mindspore>=2.7,<2.11' 'numpy<2'"
    if mindspore is None:
        raise EnvironmentProblem(f"MindSpore is not installed; {wanted}")
    if not OLDEST_MINDSPORE <= _major_minor(mindspore) < FIRST_UNSUPPORTED_MINDSPORE:
        raise EnvironmentProblem(f"MindSpore {mindspore} is not supported (expected 2.7 to 2.10); {wanted}")
    if numpy is None or _major_minor(numpy) >= (2, 0):
        raise EnvironmentProblem(f"numpy {numpy} crashes MindSpore's kernels; install: pip install 'numpy<2'")


def load_mindspore() -> ModuleType:
    """Check the packages as `check_packages` and import MindSpore, without the garbage collector: a sixth faster."""
    check_packages()
    if "mindspore" not in sys.modules and gc.isenabled():
        gc.disable()
        try:
            importlib.import_module("mindspore")
            gc.freeze()  # what was imported stays; each full collection would look at it again
        finally:
            gc.enable()
    return importlib.import_module("mindspore")


def prepare(config: "RuntimeConfig") -> str:
    """Check the packages, set device, execution mode, compilation and determinism, and return the device's name.

    Under msrun each process takes the device that msrun assigns to it; `config.device_id` is ignored.
    EnvironmentProblem if packages are not supported, or the device cannot be used or would hide overflows; ConfigError
    as in `check_operations`, or if the device has no such `jit_level`.
    """
    if config.encoder != "mindspore":
        raise ConfigError(
            f"runtime.encoder={config.encoder} encodes for index, search and evaluation; leave it out here"
        )
    if config.precision == "bf16" and config.device in ("auto", "CPU") and AMX in bfloat16_products():
        os.environ.setdefault(FPMATH_MODE, "BF16")  # read when oneDNN multiplies first
    ms = load_mindspore()
    device = _select_device(config)
    check_operations(config, device)
    keep_pipeline(device)
    if device == "Ascend":
        _show_overflows(config)
    if config.jit_level != "auto":
        _set_jit_level(config.jit_level, device)
    if config.deterministic:
        _make_deterministic()
    if not config.graph_mode and device == "CPU":
        # The threads that prepare and launch operations otherwise wait for each other: 3 s for a caption, not 0.3.
        ms.runtime.launch_blocking()
    # The update of ViT-L/14's parameters, one after another, is deeper than the 1000 calls that MindSpore allows.
    ms.set_recursion_limit(4000)
    ms.set_context(mode=ms.GRAPH_MODE if config.graph_mode else ms.PYNATIVE_MODE)
    return device


def keep_pipeline(device: str) -> None:
    """Leave MindSpore's launch pipeline to Ascend and GPU, whose host must launch ahead of them.

    MindSpore reads the variable when the first kernel runs; later this has no effect.
    """
    if device != "CPU" and os.environ.get(PIPELINE) == NO_PIPELINE:
        del os.environ[PIPELINE]


def check_operations(config: "RuntimeConfig", device: str) -> None:
    """Raise a ConfigError if the device has no kernels for the config's precision or form of the operations."""
    if config.precision == "bf16" and device == "CPU":
        if not bfloat16_products():
            raise ConfigError(
                "runtime.precision=bf16 needs Ascend, a GPU, or a processor with AMX or AVX512-BF16; set "
                f"runtime.precision=fp32 ({FPMATH_MODE}=BF16 has no effect on this processor)"
            )
        if config.fused_ops == "plain" and AMX not in bfloat16_products():
            raise ConfigError(
                "runtime.precision=bf16 has no plain form on this processor: set runtime.fused_ops=auto, or "
                "runtime.precision=fp32"
            )
    if config.fused_ops == "ascend" and device != "Ascend":
        raise ConfigError(
            f"runtime.fused_ops=ascend needs Ascend: its kernels do not exist on a {device}; set runtime.fused_ops=auto"
        )


def bfloat16_products() -> frozenset[str]:
    """Return which of `amx_bf16` and `avx512_bf16` the processor has; empty elsewhere than on Linux on x86-64."""
    try:
        words = _CPUINFO.read_text(encoding="utf-8").split()
    except OSError:
        return frozenset()
    return frozenset(words) & {AMX, AVX512}


def describe_bfloat16() -> str:
    """Say what multiplies in bfloat16 on this processor: oneDNN with its variable, our own operator, or nothing."""
    found = bfloat16_products()
    effect = "multiplies in bfloat16" if AMX in found else "has no effect"
    ours = "; runtime.precision=bf16 takes an operator of ours" if found == {AVX512} else ""
    known = ", ".join(sorted(found)) or "no bfloat16 products"
    return f"{FPMATH_MODE}=BF16 {effect} on this processor ({known}){ours}"


def describe(device: str) -> dict[str, Any]:
    """Return versions, variables, device, compilation and git revision for a run's environment.json."""
    import mindspore as ms

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device,
        "jit_level": ms.get_context("jit_level") or "auto",
        "cpu_count": os.cpu_count(),
        "packages": {name: _version(name) for name in _REPORTED_PACKAGES},
        "variables": {name: os.environ[name] for name in _REPORTED_VARIABLES if name in os.environ},
        "bfloat16": describe_bfloat16(),
        "git_revision": _git_revision(),
        "command": sys.argv,
    }


def _select_device(config: "RuntimeConfig") -> str:
    import mindspore as ms

    # MindSpore preselects the best device that its package and the machine's drivers offer.
    current = ms.get_context("device_target")
    name = current if config.device == "auto" else config.device
    # msrun assigns a device to each process, unless the program names one.
    numbered = name != "CPU" and _LAUNCHED_BY_MSRUN not in os.environ
    if name == current and not (numbered and ms.get_context("device_id") != config.device_id):
        return name  # once a kernel has run, MindSpore refuses to set even the current device
    try:
        ms.set_device(name, *([config.device_id] if numbered else []))
    except (RuntimeError, ValueError, TypeError, ImportError) as error:
        raise EnvironmentProblem(
            f"device {name} {config.device_id} cannot be used ({one_line(error)}); install MindSpore's package and the "
            "driver for it, or set runtime.device=CPU"
        ) from error
    return name


def _show_overflows(config: "RuntimeConfig") -> None:
    """Have Ascend compute infinity where float16 overflows, by which a step is recognised that must be skipped."""
    # MindSpore reads the variable when it opens the device.
    if os.environ.setdefault(OVERFLOW_MODE, INFINITE) == SATURATED and config.precision == "mixed":
        raise EnvironmentProblem(
            f"{OVERFLOW_MODE}={SATURATED} hides the overflows of runtime.precision=mixed; unset it, or set "
            "runtime.precision=fp32 on a device that has no other mode (Atlas training products before A2)"
        )


def _set_jit_level(level: str, device: str) -> None:
    import mindspore as ms

    if level == "O2" and device != "Ascend":
        raise ConfigError(
            f"runtime.jit_level=O2 compiles with CANN's graph engine, which is for Ascend, and the device is {device}; "
            "set runtime.jit_level=auto"
        )
    ms.set_context(jit_config={"jit_level": level})


def _make_deterministic() -> None:
    import mindspore as ms

    # MindSpore refuses a second call. The seed is a precaution: nothing here draws from MindSpore's generator.
    if ms.get_context("deterministic") != "ON":
        ms.set_deterministic(True)
    ms.set_seed(1)


def _version(package: str) -> str | None:
    import importlib.metadata  # a fifth of the time that --help takes

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _major_minor(version: str) -> tuple[int, int]:
    major, minor = (re.findall(r"\d+", version) + ["0", "0"])[:2]
    return int(major), int(minor)


def _git_revision() -> str | None:
    folder = Path(__file__).resolve().parent
    if not (folder.parent / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
