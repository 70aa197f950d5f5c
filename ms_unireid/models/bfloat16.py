"""Products in bfloat16 on a processor with AVX512-BF16: an operator of our own, which MindSpore has none for.

`bfloat16.cpp` is compiled once for a processor and kept.
"""

import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from mindspore import Tensor, nn, ops

from ms_unireid.errors import EnvironmentProblem
from ms_unireid.files import cache_folder, locked, replacing
from ms_unireid.runtime import AVX512, bfloat16_products

_SOURCE = Path(__file__).with_suffix(".cpp")
_TARGET, _FLAGS = "-march=native", ("-O3", "-std=c++17", "-shared", "-fPIC", "-pthread")
_FIX = "install g++ 10 or newer (CXX names another compiler), or set runtime.precision=fp32"
_FLOAT32 = (
    ops.CustomRegOp()
    .input(0, "a")
    .input(1, "b")
    .output(0, "product")
    .dtype_format(*[ops.DataType.F32_Default] * 3)
    .target("CPU")
    .get_op_info()
)


class RoundedMatMul(nn.Cell):
    """A product of float32 matrices rounded to bfloat16 and summed in float32; one may be given transposed.

    It has no gradient of its own.
    """

    def __init__(self, transpose_a: bool = False, transpose_b: bool = False):
        super().__init__()
        name = "OfTransposed" if transpose_a else "ByTransposed" if transpose_b else "Plain"
        self.multiply = ops.Custom(f"{library()}:{name}", out_dtype=lambda a, _: a, func_type="aot", reg_info=_FLOAT32)

    def construct(self, a: Tensor, b: Tensor) -> Tensor:
        """Multiply a (M, K) by b (K, N)."""
        return self.multiply(a, b)


@functools.cache
def library() -> Path:
    """Compile the operators, or return what was compiled before for the same processor and source.

    EnvironmentProblem if there is no compiler that knows the processor; UserError if the cache cannot be written.
    """
    compiler = shlex.split(os.environ.get("CXX") or "c++")
    if shutil.which(compiler[0]) is None:
        raise EnvironmentProblem(f"runtime.precision=bf16 needs a C++ compiler on this processor: {_FIX}")
    # What the compiler knows of the processor: others may share the folder.
    known = subprocess.run([*compiler, _TARGET, "-E", "-dM", "-x", "c++", os.devnull], capture_output=True).stdout
    if AVX512 in bfloat16_products() and b"__AVX512BF16__" not in known:
        raise EnvironmentProblem(f"{compiler[0]} does not know this processor's AVX512-BF16: {_FIX}")
    file = cache_folder() / f"bfloat16-{hashlib.sha256(_SOURCE.read_bytes() + known).hexdigest()[:16]}.so"
    if not file.exists():
        with locked(file.with_suffix(".lock"), "waiting for another process that compiles the products in bfloat16"):
            if not file.exists():
                _build(compiler, file)
    return file


def _build(compiler: list[str], file: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, replacing(file) as to:
        made = str(Path(folder) / file.name)
        done = subprocess.run([*compiler, _TARGET, *_FLAGS, str(_SOURCE), "-o", made], capture_output=True, text=True)
        if done.returncode:
            error = " ".join(done.stderr.split())[:200]
            raise EnvironmentProblem(f"{compiler[0]} cannot compile {_SOURCE} ({error}); {_FIX}")
        shutil.copy(made, to)
