"""Empty stand-ins for the libraries of CANN and CUDA, so that MindSpore's plugins load on a machine without them.

MindSpore's dry run simulates an Ascend device itself; all it wants of CANN is that its libraries exist. Here every
function that the plugin asks for returns 0 or its first argument. With the stand-ins for CUDA graphs are compiled for a
GPU, but cannot be launched. Nothing is computed.
"""

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from ms_unireid.errors import EnvironmentProblem

# The libraries that the plugin is linked to, or opens while it runs.
_LIBRARIES = """acl_dvpp acl_dvpp_mpi acl_dvpp_op acl_op_compiler acl_tdt_channel acl_tdt_queue ascend_hal ascendalog
ascendcl atb c_sec ge_runner gmem graph hccl mmpa msprofiler nnopbase platform prof_api profapi register runtime"""
# Looked up by name among the operators, though no text of the plugin shows it next to an operator's.
_OF_OPERATORS = """InitHugeMemThreadLocal UnInitHugeMemThreadLocal ReleaseHugeMem InitPTACacheThreadLocal SetPTAHashKey
CanUsePTACache UnInitPTACacheThreadLocal"""
_SYSTEM = [
    "libstdc++.so.6",
    "libm.so.6",
    "libgomp.so.1",
    "libgcc_s.so.1",
    "libc.so.6",
    "libpthread.so.0",
    "libdl.so.2",
    "librt.so.1",
    "ld-linux-x86-64.so.2",
]
# Names that Python, the compiler's runtime or the C library define.
_ELSEWHERE = ("Py", "_Py", "_ITM", "__", "_ZT", "getpid", "getenv", "_ZN2ge13StatusFactory8Instance")
# The one object that the plugin looks into: the texts of graph engine's errors.
_STATUS = """#include <cstdint>
#include <map>
#include <string>
namespace ge { class StatusFactory { public: static StatusFactory* Instance(); std::map<uint32_t, std::string> texts; };
StatusFactory* StatusFactory::Instance() { static StatusFactory one; return &one; } }
"""
# MindSpore sees a GPU only where CUDA_HOME has a compiler of a version that it knows.
_NVCC = "#!/bin/sh\necho 'Cuda compilation tools, release 11.6, V11.6.124'\n"
_CUDA_LIBRARIES = """libcublas.so.11 libcuda.so.1 libcudart.so.11.0 libcudnn.so.8 libcufft.so.10 libcurand.so.10
libcusolver.so.11 libcusparse.so.11 libnvrtc.so.11.2"""
# One device. Of its properties, these are the size of a warp and of a block, the capability, and its processors.
_CUDA = """#include <cstdlib>
#include <cstring>
extern "C" {
int cudaGetDeviceCount(int* count) { *count = 1; return 0; }
int cudaGetDeviceProperties(char* all, int) {
  std::memset(all, 0, 712);
  std::strcpy(all, "stand-in");
  int* numbers = (int*)all;
  numbers[77] = 32; numbers[80] = 1024; numbers[90] = 8; numbers[97] = 100;
  return 0;
}
int cudaMemGetInfo(size_t* free, size_t* total) { *free = *total = size_t(64) << 30; return 0; }
int cudaMalloc(void** at, size_t size) { *at = std::malloc(size); return 0; }
int cudaHostAlloc(void** at, size_t size, unsigned) { *at = std::malloc(size); return 0; }
int cuDeviceGetAttribute(int* value, int, int) { *value = 8; return 0; }
int nvrtcVersion(int* major, int* minor) { *major = 11; *minor = 6; return 0; }
const char* cudaGetErrorName(int) { return "none"; }
const char* cudaGetErrorString(int) { return "none"; }
}
"""
_RETURN_ZERO = "xorl %eax,%eax"
_RETURN_ARGUMENT = "movq %rdi,%rax"
_RETURN_ROOM = "leaq room(%rip),%rax"


def write_stand_ins(folder: Path, device: str = "Ascend") -> dict[str, str]:
    """Write the libraries of a device below a folder, if they are not there yet.

    Returns:
        The variables under which MindSpore finds them.

    Raises:
        EnvironmentProblem: If this MindSpore has no plugin for the device, a program is missing, or the folder cannot
            be written.
    """
    # MindSpore looks for the name `cann` in the path of a function's library.
    home = folder.absolute() / {"Ascend": "cann", "GPU": "cuda"}[device]
    plugin, others = _plugin(device)
    done = home / "complete"
    if not done.is_file() or done.read_text() != str(plugin[0].parent):
        for program in ("g++", "nm"):
            if shutil.which(program) is None:
                raise EnvironmentProblem(f"the dry run needs {program}, which is missing; install g++ and binutils")
        try:
            (home / "lib64").mkdir(parents=True, exist_ok=True)
            _WRITERS[device](home, plugin, _asked(plugin, others))
            done.write_text(str(plugin[0].parent))
        except OSError as error:
            raise EnvironmentProblem(f"{home}: cannot be written ({error.strerror}); choose --stand-ins") from error
    libraries = {"LD_LIBRARY_PATH": str(home / "lib64")}
    if device == "GPU":
        return {**libraries, "CUDA_HOME": str(home)}
    cann = {"ASCEND_HOME_PATH": str(home), "ASCEND_OPP_PATH": str(home / "opp"), "MS_SIMULATION_LEVEL": "1"}
    return {**libraries, **cann, "PYTHONPATH": str(home)}  # several processes import `hccl` for CANN's version


def _plugin(device: str) -> tuple[list[Path], list[Path]]:
    """Return the files of MindSpore's plugin for a device, and its other libraries."""
    found = importlib.util.find_spec("mindspore")
    root = Path(found.origin).parent if found else Path()
    lib = root / "lib"
    main, own = {
        "Ascend": ("libmindspore_ascend.so.2", ["libmindspore_ops_ascend.so", "ascend/**/*.so"]),
        "GPU": ("libmindspore_gpu.so.11.6", ["gpu/*.so*"]),
    }[device]
    if not (lib / "plugin" / main).exists():
        raise EnvironmentProblem(f"this MindSpore has no plugin for {device}; install its wheel for Linux on x86-64")
    plugin = [lib / "plugin" / main, *(file for pattern in own for file in sorted((lib / "plugin").glob(pattern)))]
    others = [*lib.glob("*.so*"), *root.glob("_c_*.so"), *(lib / "plugin").glob("libmindspore_ops_cpu.so")]
    return plugin, others


def _asked(plugin: list[Path], others: list[Path]) -> set[str]:
    """Return the functions that a plugin is linked to and nothing here defines."""
    system = [file for place in ("/usr/lib/x86_64-linux-gnu", "/lib64") for file in map(Path(place).joinpath, _SYSTEM)]
    defined = _symbols("--defined-only", [*plugin, *others, *filter(Path.exists, system)])
    asked = _symbols("--undefined-only", plugin) - defined
    return {name for name in asked if not name.startswith(_ELSEWHERE)}


def _write_cann(home: Path, plugin: list[Path], asked: set[str]) -> None:
    texts = {text.decode() for file in plugin for text in re.findall(rb"acl[A-Za-z0-9_]{3,80}", file.read_bytes())}
    operators = {name for name in texts if name.startswith("aclnn")}
    sizes = {f"{name}GetWorkspaceSize" for name in operators}
    _library(home / "lib64", asked | (texts - operators), _STATUS, [f"lib{name}.so" for name in _LIBRARIES.split()])
    _library(home / "lib64", operators | sizes | set(_OF_OPERATORS.split()), "", ["libopapi.so"])
    for name in ("opp", "compiler", "hccl"):
        (home / name).mkdir(exist_ok=True)
    (home / "hccl/__init__.py").write_text("")
    (home / "hccl/sys_version.py").write_text("__sys_version__ = '8.5'\n")


def _write_cuda(home: Path, plugin: list[Path], asked: set[str]) -> None:
    asked = {name for name in asked if name.startswith(("cu", "nvrtc")) and f" {name}(" not in _CUDA.replace("*", "* ")}
    _library(home / "lib64", asked, _CUDA, _CUDA_LIBRARIES.split())
    (home / "bin").mkdir(exist_ok=True)
    (home / "bin/nvcc").write_text(_NVCC)
    (home / "bin/nvcc").chmod(0o755)


_WRITERS = {"Ascend": _write_cann, "GPU": _write_cuda}


def _symbols(which: str, files: Iterable[Path]) -> set[str]:
    listed = subprocess.run(["nm", "-D", which, *map(str, files)], capture_output=True, text=True).stdout
    return {line.split()[-1].partition("@")[0] for line in listed.splitlines() if line and not line.endswith(":")}


def _library(folder: Path, names: set[str], source: str, files: list[str]) -> None:
    """Compile empty functions and C++ `source` to the first of `files`; the others are links to it."""
    head = ".bss\n.balign 64\nroom: .zero 4096\n.text\n"
    file, code, cpp = folder / files[0], folder / "code.s", folder / "code.cpp"
    code.write_text(head + "".join(map(_function, sorted(names))) + '.section .note.GNU-stack,"",@progbits\n')
    cpp.write_text(source)
    command = ["g++", "-shared", "-fPIC", "-D_GLIBCXX_USE_CXX11_ABI=0", f"-Wl,-soname,{file.name}", "-o", file]
    done = subprocess.run([*command, code, cpp], capture_output=True, text=True)
    if done.returncode:
        reason = " ".join(done.stderr.split())[:200]
        raise EnvironmentProblem(f"{file}: g++ cannot build it ({reason}); the dry run needs Linux on x86-64")
    for name in files[1:]:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(file.name)


def _function(name: str) -> str:
    if "CreateOperator" in name or re.match(r"_ZN(2ge|4gert|3atb).*C[12]E", name):
        words = 3 if "CreateOperator" in name or "8OperatorC" in name else 2
        body = [*(f"movq $0,{8 * i}(%rdi)" for i in range(words)), _RETURN_ARGUMENT]  # an object of zeros
    elif name.startswith(("_ZN2ge", "_ZNK2ge")):
        body = [_RETURN_ARGUMENT]
    else:
        body = [_RETURN_ROOM if re.match(r"acl(?!nn).*Create", name) else _RETURN_ZERO]
    return f".globl {name}\n.type {name},@function\n{name}:\n" + "".join(f"  {line}\n" for line in [*body, "ret"])
