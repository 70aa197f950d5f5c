"""Takes steps and encodes batches on the device that MindSpore's dry run simulates, one variant after another.

python -m ms_unireid.apps.checks.dry_run_child "step plain fp32"

Its parent, `dry_run`, sets the variables, and reads what MindSpore logs between the lines that begin with `MARK`.
"""

import contextlib
import gc
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ms_unireid.apps.checks.dry_run import MARK, Variant, find
from ms_unireid.config import Config
from ms_unireid.errors import one_line
from ms_unireid.runtime import ALONE, Processes, prepare

# How a tensor's values come to the host; each waits for the device.
_READS = ("asnumpy", "item", "tolist", "__bool__", "__int__", "__float__", "__index__", "__array__")


def main(names: list[str]) -> None:
    """Run the variants; all of one process have the same number of simulated processes."""
    variants = [find(name) for name in names]
    prepare(variants[0].config().runtime)
    processes = _processes(variants[0].processes)
    for variant in variants:
        _mark("begin", variant.name)
        result = _run(variant, processes)
        _mark("end", json.dumps(result))
        gc.collect()
    sys.stdout.flush()
    os._exit(0)  # the stand-ins cannot be taken down in order


def _mark(what: str, text: str = "") -> None:
    print(f"{MARK}{what} {text}", file=sys.stderr, flush=True)


def _processes(size: int) -> Processes:
    if size == 1:
        return ALONE
    from mindspore import communication

    from ms_unireid.distributed import joined

    communication.init()
    return joined()


def _run(variant: Variant, processes: Processes) -> dict[str, Any]:
    """Take two steps: the first compiles, the second is counted; on a GPU the first graph is compiled."""
    import mindspore as ms
    from mindspore.common.api import _CellGraphExecutor

    if variant.device == "GPU":
        _CellGraphExecutor.__call__ = _stop
    ms.runtime.reset_max_memory_allocated()
    before = ms.runtime.memory_allocated()  # of earlier variants, whose graphs MindSpore keeps
    try:
        work = _PARTS[variant.part](variant.config(), variant.pairs, processes)
        _calm_threads()
        work()
        ms.runtime.synchronize()
        _mark("step")
        with _counted_reads() as reads:
            work()
        ms.runtime.synchronize()
    except _Compiled:
        return {}
    except Exception as error:  # the report names any error
        return {"error": one_line(error, 2000)}
    return {"host_reads": len(reads), "peak_memory": ms.runtime.max_memory_allocated() - before}


def _calm_threads() -> None:
    """Lower the priority of all other threads: two of MindSpore's wait by spinning, and took half of a single core."""
    for thread in map(int, os.listdir("/proc/self/task")):
        if thread != os.getpid():
            with contextlib.suppress(OSError):  # it has ended
                os.setpriority(os.PRIO_PROCESS, thread, 19)


class _Compiled(Exception):
    """A graph was compiled and would now be launched."""


def _stop(*_: Any, **__: Any) -> None:
    raise _Compiled


@contextlib.contextmanager
def _counted_reads() -> Iterator[list[str]]:
    """Note each call that brings a tensor's values to the host; one within another counts once."""
    from mindspore import Tensor

    reads: list[str] = []
    inside: list[str] = []

    def noted(name: str, method: Callable) -> Callable:
        def read(*arguments: Any, **named: Any) -> Any:
            if not inside:
                reads.append(name)
            inside.append(name)
            try:
                return method(*arguments, **named)
            finally:
                inside.pop()

        return read

    kept = {name: getattr(Tensor, name) for name in _READS if hasattr(Tensor, name)}
    for name, method in kept.items():
        setattr(Tensor, name, noted(name, method))
    try:
        yield reads
    finally:
        for name, method in kept.items():
            setattr(Tensor, name, method)


def _step(config: Config, pairs: int, processes: Processes) -> Callable[[], Any]:
    from ms_unireid.models.unireid import build_model
    from ms_unireid.training.train_step import TrainOneStepCell

    step = TrainOneStepCell(build_model(config.model, runtime=config.runtime), config, processes)
    step.set_train()
    pictures = _pictures(config, pairs, 4)  # the fourth channel marks what was padded or erased
    batch = (pictures, pictures, _captions(config, pairs))
    return lambda: step(*batch, 1e-5)


def _image(config: Config, pairs: int, processes: Processes) -> Callable[[], Any]:
    encoder, pictures = _encoder(config), _pictures(config, pairs, 3)
    return lambda: encoder.pixels(pictures)


def _text(config: Config, pairs: int, processes: Processes) -> Callable[[], Any]:
    encoder, captions = _encoder(config), _captions(config, pairs)
    batches = [np.roll(captions, length, 1) for length in encoder.text_lengths]  # the end token stands last
    return lambda: [encoder.tokens(batch) for batch in batches]


def _encoder(config: Config) -> Any:
    from ms_unireid.evaluation.encoder import Encoder
    from ms_unireid.models.unireid import build_model

    return Encoder(build_model(config.model, runtime=config.runtime), config)


def _pictures(config: Config, pairs: int, channels: int) -> np.ndarray:
    return np.zeros((pairs, channels, *config.model.image_size), np.uint8)


def _captions(config: Config, pairs: int) -> np.ndarray:
    captions = np.full((pairs, config.model.context_length), 320, np.int32)
    captions[:, -1] = config.model.sizes.vocabulary_size - 1  # the largest id ends a caption
    return captions


_PARTS = {"step": _step, "image": _image, "text": _text}

if __name__ == "__main__":
    main(sys.argv[1:])
