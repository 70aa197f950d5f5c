"""The dry run: steps and encoders compiled for Ascend on a machine without one, and a table of what they use.

MindSpore's wheel simulates the device: graphs are compiled with Ascend's passes, kernels are chosen, memory is planned,
the host's side of a step runs. Nothing is computed, so it says nothing of numbers or speed, of CANN's own kernels and
workspaces, or of anything that depends on the chip. A kernel of the old interface (aclop) is taken on trust: whether
CANN has it shows on the device only.
"""

import itertools
import json
import os
import re
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ms_unireid.apps.checks.stand_ins import write_stand_ins
from ms_unireid.errors import ConfigError
from ms_unireid.installation import child_command

if TYPE_CHECKING:
    from ms_unireid.config import Config

TITLE = "compiled for Ascend in MindSpore's dry run; nothing was computed"
MARK = "dry run: "
_CHILD = "ms_unireid.apps.checks.dry_run_child"
FORMS = ("plain", "fast", "ascend")
PRECISIONS = ("fp32", "mixed", "bf16")
# What a run on Ascend takes, and what the other variants are compiled in.
_CHOSEN = ("ascend", "bf16")
# A tower's last block is its own kind. Three blocks of pictures, since the image encoder compiles two of them apart.
_TINY = (
    "model.architecture={vision: {width: 64, layers: 3, heads: 2}, text: {width: 48, layers: 2, heads: 3}, "
    "patch_size: 8, embed_dim: 32}",
    "model.image_size=[32, 16]",
)
_WORDS = 515  # the fewest there can be, in place of CLIP's table, whose size takes time and changes no kernel
_SHORT = "model.context_length=12"


@dataclass(frozen=True)
class Variant:
    """One thing to compile.

    Attributes:
        name: What the table calls it.
        overrides: Keys of the config that differ from the paper's.
        part: `step`, or the `image` or `text` encoder.
        pairs: Pairs of the batch, in this process.
        processes: Simulated processes; the child is the first of them.
        device: `Ascend`, or `GPU`, where graphs are compiled and not launched.
    """

    name: str
    overrides: tuple[str, ...]
    part: str = "step"
    pairs: int = 4
    processes: int = 1
    device: str = "Ascend"

    @property
    def tiny(self) -> bool:
        """Whether it takes seconds."""
        return _TINY[0] in self.overrides

    def config(self) -> "Config":
        """Return the whole config."""
        from ms_unireid.config import load_config

        own = (f"runtime.device={self.device}", f"data.batch_size={self.pairs * self.processes}")
        config = load_config(None, [*own, *self.overrides])
        if not self.tiny:
            return config
        sizes = replace(config.model.sizes, vocabulary_size=_WORDS)
        return replace(config, model=replace(config.model, architecture=sizes))


def _operations(form: str, precision: str) -> tuple[str, str]:
    return (f"runtime.fused_ops={form}", f"runtime.precision={precision}")


def _variants() -> Iterator[Variant]:
    for form, precision in itertools.product(FORMS, PRECISIONS):
        yield Variant(f"step {form} {precision}", (*_TINY, _SHORT, *_operations(form, precision)))
    chosen = _operations(*_CHOSEN)
    for name, keys in _OPTIONS.items():
        yield Variant(f"step with {name}", (*_TINY, _SHORT, *chosen, *keys))
    yield Variant("image encoder", (*_TINY, *chosen), "image")
    yield Variant("text encoder of every length", (*_TINY, *chosen), "text")
    for processes in (8, 16):
        keys = (*_TINY, _SHORT, *chosen, "train.global_batch_objective=true")
        yield Variant(f"step of process 0 of {processes}", keys, processes=processes)
    yield Variant("step plain fp32 on a GPU", (*_TINY, _SHORT, *_operations("plain", "fp32")), device="GPU")
    for architecture, pairs, precision in itertools.product(
        ("ViT-B/16", "ViT-L/14"), (16, 32, 64, 128), PRECISIONS[1:]
    ):
        keys = (f"model.architecture={architecture}", *_operations(_CHOSEN[0], precision))
        yield Variant(f"{architecture} {precision} of {pairs} pairs", keys, pairs=pairs)


_OPTIONS = {
    "recomputation, clipping and average": ("runtime.recompute=true", "train.clip_norm=1", "train.ema_decay=0.9"),
    "accumulation": ("train.accumulation_steps=2",),
    "cached features": ("train.cache_chunk=2",),
}
VARIANTS = {variant.name: variant for variant in _variants()}
TINY_VARIANTS = [name for name, variant in VARIANTS.items() if variant.tiny]


def find(name: str) -> Variant:
    """Return the variant of this name.

    Raises:
        ConfigError: If there is none.
    """
    if name not in VARIANTS:
        raise ConfigError(f"--variant {name}: there is no such variant; give one of: {', '.join(VARIANTS)}")
    return VARIANTS[name]


@dataclass
class Found:
    """What a variant was compiled to; a step is the second one, which compiles nothing.

    Attributes:
        name: The variant.
        kinds: Kinds of operations in the compiled graphs with their numbers, by interface: `aclnn`; `aclop`, the old
            one, compiled on line for each shape; `collective`; `none`, which launch no kernel. On a GPU: `cuda`, and
            `expanded`, which MindSpore composes of others.
        graphs: Compiled graphs.
        launches: Kernels that a step launches, one by one.
        collectives: Exchanges with other processes in a step.
        host_reads: Times that a step waits for values from the device.
        peak_memory: Bytes on the device, without the workspaces of kernels.
        error: Why it was not compiled or did not run; it names an operation without a kernel.
    """

    name: str
    kinds: dict[str, Counter] = field(default_factory=lambda: {name: Counter() for name in INTERFACES})
    graphs: int = 0
    launches: int = 0
    collectives: int = 0
    host_reads: int = 0
    peak_memory: int = 0
    error: str = ""


INTERFACES = ("aclnn", "aclop", "collective", "none")
# MindSpore's names of the kinds of kernels; the host's are views of tensors.
_KERNEL_TYPES = {
    "opapi_kernel": "aclnn",
    "acl_kernel": "aclop",
    "hccl_kernel": "collective",
    "rt_kernel": "none",
    "host_kernel": "none",
}
_KERNEL = re.compile(r"GenerateKernelMod\] kernel opname:(\w+), kernel type:(\w+)")
_CUDA_KERNEL = re.compile(r"SetKernelInfoWithMsg\] \S*?(\w+)-op\d+ kernel attr info")
_EXPANDED = re.compile(r"SetOperatorInfo\] Unsupported op \[(\w+)\] on GPU")  # the expansion is announced after this
_COMPILES = "CompileGraph] Status record: start compile graph"
_COMPILED = re.compile(r"CompileGraph\] Status record: end compile graph\. graph id: (\d+)")
_RUNS = re.compile(r"Run\] Status record: start run actor: kernel_graph_(\d+)")
_SINGLE = "PyBoost sync run device task"


def read_log(lines: Iterable[str]) -> Iterator[Found]:
    """Read what MindSpore logs for each variant that a child finishes."""
    found, graphs, graph, in_step = None, {}, Counter(), False
    for line in lines:
        if line.startswith(MARK):
            what, _, text = line.removeprefix(MARK).strip().partition(" ")
            in_step = what == "step"
            if what == "begin":
                found, graphs, graph = Found(text), {}, Counter()
            elif what == "end":
                for key, value in json.loads(text).items():
                    setattr(found, key, value)
                yield found
        elif found is None:
            continue
        elif match := _KERNEL.search(line):
            interface = _KERNEL_TYPES.get(match[2], match[2])
            found.kinds.setdefault(interface, Counter())[match[1]] += 1
            graph[interface] += 1
        elif match := _CUDA_KERNEL.search(line):
            found.kinds.setdefault("cuda", Counter())[match[1]] += 1
        elif match := _EXPANDED.search(line):
            found.kinds.setdefault("expanded", Counter())[match[1]] += 1
            found.kinds["cuda"][match[1]] -= 1
        elif _COMPILES in line:
            graph = Counter()  # kernels before it belong to single operations
        elif match := _COMPILED.search(line):
            graphs[match[1]], graph = graph, Counter()
            found.graphs += 1
        elif in_step and (match := _RUNS.search(line)):
            kernels = graphs[match[1]]
            found.launches += kernels["aclnn"] + kernels["aclop"] + kernels["collective"]
            found.collectives += kernels["collective"]
        elif in_step and _SINGLE in line:
            found.launches += 1


def dry_run(variants: Sequence[Variant], folder: Path | None, limit: float) -> Iterator[Found]:
    """Compile variants, tiny ones of a kind in one process, and yield what each was compiled to.

    Args:
        variants: What to compile.
        folder: Where the stand-ins are written and kept; None takes a temporary one.
        limit: Seconds for each variant.

    Raises:
        EnvironmentProblem: If the dry run is not possible here.
    """
    with tempfile.TemporaryDirectory() as temporary:
        for device, of_device in itertools.groupby(variants, lambda one: one.device):
            variables = write_stand_ins(folder or Path(temporary), device)
            for _, group in itertools.groupby(of_device, lambda one: one.processes if one.tiny else one.name):
                yield from _run_child(list(group), variables, limit)


def _run_child(variants: list[Variant], variables: dict[str, str], limit: float) -> Iterator[Found]:
    """Run variants in one process; those that it does not finish have an error."""
    command = child_command(_CHILD, *(variant.name for variant in variants))
    variables = {**os.environ, **_LOGGED, **variables, **_ranks(variants[0].processes)}
    # MindSpore leaves folders in the current one.
    with tempfile.TemporaryFile("w+", errors="replace") as log, tempfile.TemporaryDirectory() as scratch:
        where = {"stdout": log, "stderr": log, "env": variables, "cwd": scratch}
        try:
            done = subprocess.run(command, timeout=limit * len(variants), **where)
            death = f"its process ended with code {done.returncode}"
            if done.returncode < 0:
                death = f"its process was killed by {signal.Signals(-done.returncode).name}"
        except subprocess.TimeoutExpired:
            death = f"no answer within {limit:g} s; a slow machine may need a higher --limit"
        log.seek(0)
        found = list(read_log(log))
        log.seek(0)
        last = ["", *(line.strip() for line in log if line.strip() and not line.startswith(("[", MARK)))][-1][:300]
    yield from found
    for variant in variants[len(found) :]:
        yield Found(variant.name, error=f"{death}: {last or 'no output'}")


_LOGGED = {
    "GLOG_v": "3",
    "GLOG_logtostderr": "1",
    # Only what is read: the choice of kernels, graphs and their runs, and single operations.
    "MS_SUBMODULE_LOG_v": "{DEVICE:1,RUNTIME_FRAMEWORK:1,PYNATIVE:1,PRE_ACT:1}",
    "MS_DEV_HOST_BLOCKING_RUN": "1",  # single operations are then logged as such
}


def _ranks(size: int) -> dict[str, str]:
    return {} if size == 1 else {"RANK_SIZE": str(size), "RANK_ID": "0"}


def to_json(results: Sequence[Found]) -> dict[str, Any]:
    """Return all results as a dictionary."""
    return {"title": TITLE, "variants": [vars(found) for found in results]}


def to_markdown(results: Sequence[Found]) -> str:
    """Lay out results as a Markdown table, and say of each variant what the old interface runs, or why it failed."""
    head = ("variant", "kinds by aclop", *INTERFACES, "launches", "collectives", "graphs", "host reads", "peak MiB")
    rows = [head, ("---", *["---:"] * (len(head) - 1)), *(_row(found) for found in results if _runs(found))]
    table = [f"Each variant was {TITLE}.", "", *(f"| {' | '.join(row)} |" for row in rows), ""]
    return "\n".join([*table, *(f"- {found.name}: {_note(found)}" for found in results)])


def _runs(found: Found) -> bool:
    return not found.error and "cuda" not in found.kinds


def _row(found: Found) -> tuple[str, ...]:
    totals = (sum(found.kinds[name].values()) for name in INTERFACES)
    numbers = (found.launches, found.collectives, found.graphs, found.host_reads)
    counts = map(str, (len(found.kinds["aclop"]), *totals, *numbers))
    return (found.name, *counts, f"{found.peak_memory / 2**20:.0f}")


def _note(found: Found) -> str:
    if found.error:
        return f"not compiled: {found.error}"
    if not _runs(found):
        kinds = +found.kinds["cuda"]
        expanded = ", ".join(sorted(found.kinds.get("expanded", ()))) or "none"
        return f"{len(kinds)} kinds of kernels for CUDA, compiled and not launched; composed of others: {expanded}"
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(found.kinds["aclop"].items()))
    return f"aclop {kinds or 'none'}"
