"""The doctor's checks of an installation, a machine and the files that a config names.

Only the standard library is imported at the top: the doctor runs even if packages are missing. What needs MindSpore
runs in `machine_child`, in a separate process.
"""

import contextlib
import importlib.util
import json
import math
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ms_unireid.apps.checks import machine_child
from ms_unireid.apps.checks.accelerators import DRIVERS, check_accelerator, check_communication
from ms_unireid.apps.checks.packages import check_conflicts, check_packages, check_python
from ms_unireid.data.findings import Finding
from ms_unireid.errors import UserError
from ms_unireid.installation import (
    INFINITE,
    INSTALL_CORE,
    NO_PIPELINE,
    OVERFLOW_MODE,
    PIPELINE,
    SATURATED,
    child_command,
)
from ms_unireid.runtime import FPMATH_MODE, describe_bfloat16

if TYPE_CHECKING:
    from ms_unireid.config import Config

_GIB = 2**30
# The results of machine_child.steps: MindSpore 2.7.0 and 2.10.0 agree within 1e-6 on a CPU, float16 within 0.2 %.
_KNOWN = {"features": 0.905554, "losses": [6.216792, 5.221235, 4.345783, 3.967518]}
_TOLERANCE = 0.02
# ViT-B/16 at 384x128 in float32 on a CPU: 10.3 GiB for a step of 8 pairs, of which 2.2 for weights, gradients, moments.
_PAIR_GIB, _USUAL_PAIRS = 1.0, 8
# In units of the weights' size: three states of a run, each with two moments, and four best checkpoints.
_CHECKPOINTS = 3 * 3 + 4


def examine(
    config: "Config | None", requested: bool, limit: float, outputs: dict[str, str] | None = None
) -> Iterator[Finding]:
    """Run every check and yield its findings.

    Args:
        config: The config of a run; None if packages to read it are missing.
        requested: Whether the user gave the config; problems of the default config are only warnings.
        limit: Seconds that each child process may take.
        outputs: Takes what each child process that failed has printed on stderr, by the name of the check.
    """
    outputs = {} if outputs is None else outputs
    yield check_python()
    yield from check_packages()
    yield from check_conflicts()
    counts, findings = check_devices(config, limit, outputs)
    yield from check_environment(_used_device(config, counts))
    if _used_device(config, counts) == "CPU":
        yield check_bfloat16()
    yield from findings
    memory: dict[str, int] = {}
    for device in (name for name in machine_child.DEVICES if counts.get(name)):
        for precision in ("fp32",) if device == "CPU" else ("fp32", "mixed"):
            result, finding = check_steps(device, _device_id(config), precision, limit, outputs)
            memory[device] = result.get("memory") or 0
            yield finding
    if config is None:
        yield Finding("config", "warning", "memory, disk, data and weights are not checked: packages are missing")
        return
    severity = "problem" if requested else "warning"
    yield _guarded("memory", severity, lambda: check_memory(config, requested, memory))
    yield _guarded("disk", severity, lambda: check_disk(config, requested))
    yield _guarded("data set", severity, lambda: check_data(config))
    yield _guarded("model.pretrained", severity, lambda: check_pretrained(config))


def check_environment(device: str) -> Iterator[Finding]:
    """Check the variables that matter on a device; the package sets them if the user does not."""
    yield _check_pipeline(device, os.environ.get(PIPELINE, ""))
    if device == "Ascend":
        saturated = os.environ.get(OVERFLOW_MODE) == SATURATED
        detail = "overflows would be hidden: runtime.precision=mixed is refused" if saturated else INFINITE
        yield Finding(OVERFLOW_MODE, "warning" if saturated else "ok", detail, "unset it" if saturated else "")


def check_bfloat16() -> Finding:
    """Say whether oneDNN's variable has an effect on this processor; a warning if it is set without one."""
    found = describe_bfloat16()
    idle = FPMATH_MODE in os.environ and "no effect" in found
    return Finding(FPMATH_MODE, "warning" if idle else "ok", found, "unset it" if idle else "")


def _check_pipeline(device: str, value: str) -> Finding:
    """Check whether compiled graphs are launched ahead: on a CPU it keeps a core busy, a device waits without it."""
    others = [part for part in value.split(",") if part not in ("", NO_PIPELINE)]
    if device == "CPU" and NO_PIPELINE not in value:
        fix = f"unset it, or export {PIPELINE}={','.join([*others, NO_PIPELINE])}"
        return Finding(PIPELINE, "warning", f"'{value}' has no {NO_PIPELINE}: a compiled step keeps a core busy", fix)
    if device != "CPU" and others and NO_PIPELINE in value:
        fix = f"unset it, or export {PIPELINE}={','.join(others)}"
        return Finding(PIPELINE, "warning", f"'{value}' has {NO_PIPELINE}: {device} waits for its host", fix)
    return Finding(PIPELINE, "ok", value if device == "CPU" or others else f"MindSpore's own pipeline on {device}")


def check_devices(
    config: "Config | None", limit: float, outputs: dict[str, str]
) -> tuple[dict[str, int], list[Finding]]:
    """Return the number of devices of each kind that MindSpore can use, with findings."""
    if importlib.util.find_spec("mindspore") is None:
        what = "MindSpore is not installed: no device can be used"
        return {}, [Finding("devices", "problem", what, INSTALL_CORE)]
    counts, failure = run_child(["devices"], limit, outputs)
    if failure:
        return {}, [Finding("devices", "problem", failure, "fix the packages above, or install MindSpore again")]
    seen = ", ".join(f"{name} {count}" for name, count in counts.items())
    wanted = "auto" if config is None else config.runtime.device
    lacking = [name for name in DRIVERS if not counts[name] and (name == wanted or DRIVERS[name].exists())]
    findings = [finding for name in lacking for finding in _unseen(name, name == wanted, seen)]
    return counts, [*(findings or [Finding("devices", "ok", seen)]), *check_communication(counts["Ascend"])]


def _unseen(name: str, wanted: bool, seen: str) -> list[Finding]:
    """Return the findings about a device that a config names, or whose driver is there, and MindSpore does not see."""
    if wanted:
        fix = f"see {name} below, or set runtime.device=CPU"
        first = Finding("devices", "problem", f"{seen}; runtime.device={name} is not available", fix)
    else:
        detail = f"{seen}; {DRIVERS[name]} exists, but MindSpore finds no {name}"
        first = Finding("devices", "warning", detail, f"see {name} below")
    return [first, *check_accelerator(name, first.state)]


def check_steps(
    device: str, device_id: int, precision: str, limit: float, outputs: dict[str, str]
) -> tuple[dict[str, Any], Finding]:
    """Take a few training steps of a tiny model on a device; return their results, with a finding."""
    what = f"step {device} {precision}"
    result, failure = run_child(["steps", device, str(device_id), precision], limit, outputs)
    if failure:
        return {}, Finding(what, "problem", failure, "fix the packages above, or use another runtime.device")
    losses = result["losses"]
    detail = f"features {result['features']:.4f}, loss {' '.join(f'{loss:.4f}' for loss in losses)}"
    values = [result["features"], *losses]
    known = [_KNOWN["features"], *_KNOWN["losses"]]
    if not all(map(math.isfinite, values)) or losses[-1] >= losses[0]:
        return result, Finding(
            what, "problem", f"{detail}: not finite or not falling", "do not train with this installation"
        )
    if any(abs(value - good) > _TOLERANCE * good for value, good in zip(values, known, strict=True)):
        good = " ".join(f"{value:.4f}" for value in known)
        fix = "report device and versions to the project's maintainers"
        return result, Finding(what, "problem", f"{detail}; expected {good}", fix)
    return result, Finding(what, "ok", f"{detail}, as expected")


def check_memory(config: "Config", requested: bool, accelerators: dict[str, int]) -> Finding:
    """Compare memory with the estimated need of a training step."""
    name = config.runtime.device
    if name == "auto":
        name = next(iter(accelerators), "CPU")
    free = free_memory() if name == "CPU" else accelerators.get(name)
    pairs = min(config.data.batch_size, config.train.cache_chunk or config.data.batch_size)
    needed, what = _step_memory(config, pairs if requested else _USUAL_PAIRS)
    detail = f"{name}: {_gib(free) if free else 'unknown memory'} for {what}, about {_gib(needed)}"
    if not free or free >= needed:
        return Finding("memory", "ok" if free else "warning", detail)
    fix = "set train.cache_chunk to fewer pairs, runtime.recompute=true, or use a machine with more memory"
    return Finding("memory", "problem" if requested else "warning", detail, fix)


def check_disk(config: "Config", requested: bool) -> Finding:
    """Compare the free space under train.output with the size of a run's checkpoints."""
    folder = Path(config.train.output).resolve()
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free, needed = shutil.disk_usage(place).free, 4 * _parameters(config) * _CHECKPOINTS
    detail = f"{place}: {_gib(free)} free, a run's checkpoints take about {_gib(needed)}"
    if not os.access(place, os.W_OK):
        return Finding("disk", "problem", f"{place}: cannot be written", "set train.output to a writable folder")
    if free >= needed:
        return Finding("disk", "ok", detail)
    return Finding(
        "disk", "problem" if requested else "warning", detail, "make room or set train.output to another disk"
    )


def check_data(config: "Config") -> Finding:
    """Check the data set with all its photos and sketches.

    Raises:
        DataError: If the data set is incomplete or wrong.
    """
    from ms_unireid.data.pairs import read_captioned

    data = config.data
    read = read_captioned(data)
    splits = read.checked_annotations(read.splits, data.allow_identity_gaps)
    counts = ", ".join(f"{name} {len(rows)}" for name, rows in splits.items())
    return Finding("data set", "ok", f"{read.folder}: annotations {counts}; all photos and sketches exist")


def check_pretrained(config: "Config") -> Finding:
    """Check the weights that training starts from, without reading them.

    Raises:
        CheckpointError: If the file cannot be read or holds another model.
    """
    from ms_unireid.checkpoints.recognition import open_source
    from ms_unireid.errors import CheckpointError

    model, what = config.model, "model.pretrained"
    if model.pretrained is None:
        if model.architecture in ("small", "tiny"):
            return Finding(what, "ok", "none; there is no CLIP model of this size")
        detail = "none: training starts from random weights; the paper starts from CLIP's"
        return Finding(what, "warning", detail, "set model.pretrained to CLIP's file (docs/checkpoints.md)")
    source = open_source(model.pretrained, architecture=model.architecture)
    if source.model.sizes != model.sizes:
        raise CheckpointError(
            f"{model.pretrained}: is a {source.model.architecture}, expected {model.architecture}; "
            f"Fix: set model.architecture={source.model.architecture} or give another file"
        )
    return Finding(what, "ok", f"{model.pretrained}: {source.kind}, {source.model.architecture}")


def run_child(arguments: list[str], limit: float, outputs: dict[str, str]) -> tuple[dict[str, Any], str]:
    """Run a part of `machine_child`; return its result, or an empty one and the reason, and keep what it printed."""
    command = child_command(machine_child.__name__, *arguments)
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=limit)
    except subprocess.TimeoutExpired as error:
        outputs["-".join(arguments)] = (error.stderr or b"").decode(errors="replace")
        return {}, f"no answer within {limit:g} s; a slow machine may need a higher --limit"
    lines = [line for line in done.stdout.splitlines() if line.startswith(machine_child.RESULT)]
    result = json.loads(lines[-1].removeprefix(machine_child.RESULT)) if lines else {}
    if result and "error" not in result:
        return result, ""  # MindSpore may crash at exit, after the work
    outputs["-".join(arguments)] = done.stderr
    return {}, result.get("error") or _death(done)


def free_memory() -> int | None:
    """Return the bytes available to new processes, within a container's limit; None if not known."""
    with contextlib.suppress(ImportError):
        import psutil

        free = psutil.virtual_memory().available
        with contextlib.suppress(OSError, ValueError):  # "max" is no limit
            group = Path("/sys/fs/cgroup")
            limit = int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
            free = min(free, limit)
        return free
    return None


def _death(done: subprocess.CompletedProcess) -> str:
    if done.returncode < 0:
        return f"the process was killed by {signal.Signals(-done.returncode).name}"
    errors = [line for line in done.stderr.splitlines() if line.strip()]
    return f"the process ended with code {done.returncode}: {errors[-1].strip() if errors else 'no output'}"


def _guarded(what: str, severity: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except ImportError as error:
        return Finding(what, "warning", f"not checked: {error}", INSTALL_CORE)
    except UserError as error:
        detail, _, fix = " ".join(str(error).split()).partition("Fix: ")
        return Finding(what, severity, detail.rstrip(" ;"), fix)


def _used_device(config: "Config | None", counts: dict[str, int]) -> str:
    """Return the device that `runtime.device` means on this machine."""
    name = "auto" if config is None else config.runtime.device
    return next((kind for kind in machine_child.DEVICES if counts.get(kind)), "CPU") if name == "auto" else name


def _device_id(config: "Config | None") -> int:
    return 0 if config is None else config.runtime.device_id


def _parameters(config: "Config") -> int:
    from ms_unireid.checkpoints.clip_names import clip_shapes
    from ms_unireid.models.positions import model_grid

    model = config.model
    shapes = clip_shapes(model.sizes, model.context_length, math.prod(model_grid(model)))
    return sum(map(math.prod, shapes.values()))


def _step_memory(config: "Config", pairs: int) -> tuple[float, str]:
    """Return bytes and a description: weights, gradients and two moments, and activations where measured."""
    model, own = config.model, 4 * 4 * _parameters(config)
    measured = model.architecture == "ViT-B/16" and model.image_size == (384, 128) and model.stride is None
    if not measured or config.runtime.recompute or config.runtime.precision != "fp32":
        return own, f"weights, gradients and moments of {model.architecture} (activations not known)"
    return own + pairs * _PAIR_GIB * _GIB, f"a step of {model.architecture} on {pairs} pairs in float32"


def _gib(size: float) -> str:
    return f"{size / _GIB:.1f} GiB"
