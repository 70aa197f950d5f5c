"""Runs exported files as another program would; `verification` starts it in a separate process.

python -m ms_unireid.apps.export.runner INPUTS OUTPUTS 1,2,5 image_encoder.onnx text_encoder.onnx
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

# Maps inputs by name to a list of outputs, both in the file's order.
Run = Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]


def open_exported(path: Path, threads: int = 0) -> Run:
    """Load a `.mindir` file with MindSpore, any other with onnxruntime, on the CPU; 0 threads is its default."""
    return _open_mindir(path) if path.suffix == ".mindir" else _open_onnx(path, threads)


def run_batches(run: Run, inputs: Mapping[str, np.ndarray], sizes: Sequence[int]) -> list[np.ndarray]:
    """Run the inputs in batches of the given sizes, which add up to their rows, and join the outputs."""
    starts = np.cumsum([0, *sizes[:-1]])
    batches = [slice(start, start + size) for start, size in zip(starts, sizes, strict=True)]
    outputs = [run({name: array[batch] for name, array in inputs.items()}) for batch in batches]
    return [np.concatenate(rows) for rows in zip(*outputs, strict=True)]


def _open_mindir(path: Path) -> Run:
    import mindspore as ms
    from mindspore import Tensor, nn

    if ms.get_context("device_target") != "CPU":  # MindSpore may refuse a second call
        ms.set_device("CPU")
    ms.set_context(mode=ms.GRAPH_MODE)
    cell = nn.GraphCell(ms.load(str(path)))

    def run(inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        outputs = cell(*(Tensor(np.ascontiguousarray(array)) for array in inputs.values()))
        return [output.asnumpy() for output in (outputs if isinstance(outputs, (tuple, list)) else (outputs,))]

    return run


def _open_onnx(path: Path, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, dict(inputs))


def main(arguments: Sequence[str]) -> None:
    """Run each file on the arrays of INPUTS/STEM.npz and write its numbered outputs to OUTPUTS/NAME.npz."""
    inputs, outputs, sizes, *files = arguments
    for file in map(Path, files):
        print(f"running {file.name}", flush=True)
        with np.load(Path(inputs) / f"{file.stem}.npz") as arrays:
            results = run_batches(open_exported(file), dict(arrays), [int(size) for size in sizes.split(",")])
        np.savez(Path(outputs) / f"{file.name}.npz", **{str(number): array for number, array in enumerate(results)})


if __name__ == "__main__":
    main(sys.argv[1:])
