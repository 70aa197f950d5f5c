"""Runs exported files, as another program would; `verification` does so in a process of its own.

python -m ms_unireid.apps.export.runner INPUTS OUTPUTS 1,2,5 image_encoder.onnx text_encoder.onnx
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

# Inputs by name, in the file's order, to the outputs in the file's order.
Run = Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]


def open_exported(path: Path, threads: int = 0) -> Run:
    """Load a `.mindir` file with MindSpore, any other with onnxruntime, on the CPU.

    Args:
        path: The file.
        threads: That onnxruntime may use; 0 leaves it to onnxruntime.
    """
    return _open_mindir(path) if path.suffix == ".mindir" else _open_onnx(path, threads)


def run_batches(run: Run, inputs: Mapping[str, np.ndarray], sizes: Sequence[int]) -> list[np.ndarray]:
    """Run the rows of the inputs in batches of the sizes given, which add up to their number; return all rows."""
    starts = np.cumsum([0, *sizes[:-1]])
    places = [slice(start, start + size) for start, size in zip(starts, sizes, strict=True)]
    parts = [run({name: array[place] for name, array in inputs.items()}) for place in places]
    return [np.concatenate(rows) for rows in zip(*parts, strict=True)]


def _open_mindir(path: Path) -> Run:
    import mindspore as ms
    from mindspore import Tensor, nn

    if ms.get_context("device_target") != "CPU":  # MindSpore may refuse to be told twice
        ms.set_device("CPU")
    ms.set_context(mode=ms.GRAPH_MODE)
    cell = nn.GraphCell(ms.load(str(path)))

    def run(inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        found = cell(*(Tensor(np.ascontiguousarray(array)) for array in inputs.values()))
        return [one.asnumpy() for one in (found if isinstance(found, (tuple, list)) else (found,))]

    return run


def _open_onnx(path: Path, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, dict(inputs))


def main(arguments: Sequence[str]) -> None:
    """Run files on arrays: those of INPUTS/STEM.npz go in, numbered ones come out in OUTPUTS/NAME.npz."""
    inputs, outputs, sizes, *files = arguments
    for file in map(Path, files):
        print(f"running {file.name}", flush=True)
        with np.load(Path(inputs) / f"{file.stem}.npz") as arrays:
            found = run_batches(open_exported(file), dict(arrays), [int(size) for size in sizes.split(",")])
        np.savez(Path(outputs) / f"{file.name}.npz", **{str(number): array for number, array in enumerate(found)})


if __name__ == "__main__":
    main(sys.argv[1:])
