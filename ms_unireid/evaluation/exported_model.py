"""The two encoders of an exported model, run by OpenVINO or onnxruntime on a CPU, without MindSpore."""

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ms_unireid.data.transforms import normalize
from ms_unireid.errors import EnvironmentProblem
from ms_unireid.installation import install_extra

_HINTS = {"fp32": "f32", "bf16": "bf16"}  # OpenVINO's names


def load_engine(name: str) -> ModuleType:
    """Import `openvino` or `onnxruntime`; EnvironmentProblem if it is missing or cannot be imported."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        extra = "openvino" if name == "openvino" else "onnx"
        raise EnvironmentProblem(
            f"runtime.encoder={name} needs the package {name} ({error}); {install_extra(extra)}, or give --encoder "
            "mindspore"
        ) from error


def has_bfloat16() -> bool:
    """Whether OpenVINO multiplies in bfloat16 on this processor: x86-64 with AVX512-BF16 or AMX, some of Arm."""
    return "BF16" in load_engine("openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class ExportedModel:
    """The encoders in a folder that `export_checkpoint` wrote.

    Args:
        folder: The folder, with ONNX files; those for int8 are quantised.
        checkpoint: The file that was exported.
        encoder: `openvino` or `onnxruntime`.
        precision: `fp32`, with OpenVINO `bf16`, of pictures alone, with onnxruntime `int8`.
        length: Tokens of a row of captions.

    Raises:
        EnvironmentProblem: If the engine is not installed, or the processor has no such precision.
    """

    def __init__(self, folder: Path, checkpoint: Path, encoder: str, precision: str, length: int):
        self.folder, self.checkpoint, self.length = folder, checkpoint, length
        self.encoder, self.precision = encoder, precision
        load_engine(encoder)
        if precision == "bf16" and not has_bfloat16():
            raise EnvironmentProblem(
                "runtime.precision=bf16: this processor does not multiply in bfloat16 (x86-64 needs AVX512-BF16 or "
                "AMX); give --precision fp32"
            )
        self._ready: dict[str, tuple[int, Callable]] = {}

    def images(self, pictures: np.ndarray) -> np.ndarray:
        """Encode pictures (B, 3, H, W), float32 normalised or uint8 pixels; un-normalised features (B, D) float32."""
        return self._run("image_encoder", normalize(pictures) if pictures.dtype == np.uint8 else pictures)

    def captions(self, token_ids: np.ndarray) -> np.ndarray:
        """Encode token ids (B, L) int32, L up to `length`; un-normalised features (B, D) float32."""
        return self._run("text_encoder", np.pad(token_ids, ((0, 0), (0, self.length - token_ids.shape[1]))))

    def _run(self, name: str, batch: np.ndarray) -> np.ndarray:
        size, run = self._ready.get(name, (0, None))
        if size != len(batch):  # the last size is kept: each holds the weights
            opened = self._openvino if self.encoder == "openvino" else self._onnxruntime
            run = opened(str(self.folder / f"{name}.onnx"), batch.shape)
            self._ready[name] = len(batch), run
        return run(batch)

    def _openvino(self, file: str, shape: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
        core = load_engine("openvino").Core()
        model = core.read_model(file)
        model.reshape(list(shape))  # a fixed size is faster than an open one
        how: dict[str, Any] = {"INFERENCE_NUM_THREADS": _threads()} if _threads() else {}
        # In bfloat16 neighbouring token ids are one, and the end of a caption is the largest.
        precision = self.precision if len(shape) == 4 else "fp32"
        how |= {"INFERENCE_PRECISION_HINT": _HINTS[precision], "PERFORMANCE_HINT": "LATENCY"}
        compiled = core.compile_model(model, "CPU", how)
        return lambda batch: compiled(batch)[0].copy()

    def _onnxruntime(self, file: str, _: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
        engine = load_engine("onnxruntime")
        options = engine.SessionOptions()
        options.intra_op_num_threads = _threads()
        session = engine.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        (entry,) = session.get_inputs()
        return lambda batch: session.run(None, {entry.name: batch})[0]


def _threads() -> int:
    """Return OMP_NUM_THREADS, which Ray sets and neither engine reads; 0 leaves their number to them."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return int(threads) if threads.isdecimal() else 0
