"""The start-up check of packages and device, and how work is split among processes."""

import importlib.metadata
import os
import platform
import subprocess
import sys

import pytest

from ms_unireid import runtime
from ms_unireid.config import Config, RuntimeConfig, load_config
from ms_unireid.errors import ConfigError, EnvironmentProblem
from ms_unireid.runtime import Processes, check_batch_size


@pytest.fixture
def installed(monkeypatch):
    """Return a function that pretends other package versions; None is a missing package."""

    def pretend(**versions):
        def version(name):
            found = {"mindspore": "2.10.0", "numpy": "1.26.4", **versions}.get(name)
            if found is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return found

        monkeypatch.setattr(importlib.metadata, "version", version)

    return pretend


@pytest.mark.parametrize("mindspore", ["2.7.0", "2.7.2", "2.9.0rc1", "2.10.0"])
@pytest.mark.parametrize("numpy", ["1.25.0", "1.26.4"])
def test_supported_versions(installed, mindspore, numpy):
    installed(mindspore=mindspore, numpy=numpy)
    runtime.check_packages()


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ({"numpy": "2.0.0"}, "numpy 2.0.0 crashes"),
        ({"numpy": "2.3.1"}, "numpy 2.3.1 crashes"),
        ({"numpy": None}, "numpy"),
        ({"mindspore": None}, "MindSpore is not installed"),
        ({"mindspore": "2.6.0"}, "MindSpore 2.6.0 is not supported"),
        ({"mindspore": "2.11.0"}, "MindSpore 2.11.0 is not supported"),
        ({"mindspore": "3.0.0"}, "MindSpore 3.0.0 is not supported"),
    ],
)
def test_unsupported_versions_are_one_line_with_the_command(installed, versions, expected):
    installed(**versions)
    with pytest.raises(EnvironmentProblem) as caught:
        runtime.prepare(RuntimeConfig())
    message = str(caught.value)
    assert expected in message and "pip install" in message and "numpy<2" in message
    assert "\n" not in message


@pytest.mark.parametrize("error", [RuntimeError("no\ndriver"), ValueError("wrong"), TypeError("x"), ImportError("y")])
def test_a_device_that_cannot_be_used(monkeypatch, error):
    import mindspore as ms

    def refuse(*_):
        raise error

    monkeypatch.setattr(ms, "set_device", refuse)
    with pytest.raises(EnvironmentProblem) as caught:
        runtime.prepare(RuntimeConfig(device="Ascend", device_id=3))
    message = str(caught.value)
    assert "device Ascend 3 cannot be used" in message and "runtime.device=CPU" in message
    assert "\n" not in message


@pytest.mark.parametrize("graph_mode", [True, False])
def test_prepare_sets_the_mode_and_names_the_device(mode, graph_mode):
    import mindspore as ms

    assert runtime.prepare(RuntimeConfig(device="CPU", graph_mode=graph_mode)) == "CPU"
    assert ms.get_context("mode") == (ms.GRAPH_MODE if graph_mode else ms.PYNATIVE_MODE)


def test_auto_takes_the_device_mindspore_found(mode):
    import mindspore as ms

    found = ms.get_context("device_target")
    assert runtime.prepare(RuntimeConfig()) == found


@pytest.mark.parametrize(("role", "expected"), [(None, ("Ascend", 3)), ("MS_WORKER", ("Ascend",))])
def test_msrun_and_not_the_config_numbers_the_devices_of_its_processes(monkeypatch, mode, role, expected):
    import mindspore as ms

    if role:
        monkeypatch.setenv("MS_ROLE", role)
    else:
        monkeypatch.delenv("MS_ROLE", raising=False)
    calls = []
    monkeypatch.setattr(ms, "set_device", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(runtime.os, "environ", dict(runtime.os.environ))
    assert runtime.prepare(RuntimeConfig(device="Ascend", device_id=3)) == "Ascend"
    assert calls == [expected]


@pytest.mark.parametrize(
    ("device", "given", "left"),
    [
        ("CPU", None, "graph_pipeline:false"),
        ("Ascend", None, None),
        ("Ascend", "inline:false,graph_pipeline:false", "graph_pipeline:false"),
    ],
)
def test_the_launch_pipeline_is_off_on_a_cpu_only(monkeypatch, device, given, left):
    """MindSpore, imported before, reads what is left when its first kernel runs, and then prints it."""
    script = (
        "import ms_unireid, mindspore as ms\n"
        "from ms_unireid.runtime import keep_pipeline\n"
        f"keep_pipeline({device!r})\n"
        "ms.set_context(mode=ms.GRAPH_MODE)\n"
        "print(ms.nn.ReLU()(ms.Tensor([-1.0, 2.0])))\n"
    )
    variables = {k: v for k, v in os.environ.items() if k != "MS_DEV_RUNTIME_CONF"}
    variables |= {"MS_DEV_RUNTIME_CONF": given} if given else {}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env=variables)
    assert "[0. 2.]" in done.stdout, done.stderr
    told = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("[MS_DEV_RUNTIME_CONF]")]
    assert len(told) == (left is not None) and all(left in line for line in told)


@pytest.fixture
def on_ascend(monkeypatch):
    """Return a function that prepares for an Ascend that is not there and returns the environment's variables."""

    def prepare(precision, given):
        variables = {"MS_ASCEND_CHECK_OVERFLOW_MODE": given} if given else {}
        monkeypatch.setattr(runtime.os, "environ", variables)
        monkeypatch.setattr(runtime, "_select_device", lambda _: "Ascend")
        runtime.prepare(RuntimeConfig(precision=precision))
        return variables

    return prepare


@pytest.mark.parametrize("precision", ["fp32", "mixed", "bf16"])
def test_overflows_become_infinite_on_ascend(on_ascend, mode, precision):
    assert on_ascend(precision, None) == {"MS_ASCEND_CHECK_OVERFLOW_MODE": "INFNAN_MODE"}


def test_hidden_overflows_are_refused_with_mixed_precision(on_ascend, mode):
    assert on_ascend("fp32", "SATURATION_MODE") == {"MS_ASCEND_CHECK_OVERFLOW_MODE": "SATURATION_MODE"}
    with pytest.raises(EnvironmentProblem, match="SATURATION_MODE hides the overflows") as caught:
        on_ascend("mixed", "SATURATION_MODE")
    assert "unset it" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("level", ["O0", "O1"])
def test_the_level_of_compilation_reaches_mindspore(mode, level):
    import mindspore as ms
    from mindspore import context

    before = runtime.describe("CPU")["jit_level"]
    runtime.prepare(RuntimeConfig(device="CPU", jit_level=level))
    assert (before, runtime.describe("CPU")["jit_level"]) == ("auto", level)
    context._context().set_param(context.ms_ctx_param.jit_level, "")  # MindSpore has no public way back
    context._context().jit_config = {}
    assert ms.get_context("jit_level") == ""


def test_the_graph_engine_is_refused_on_a_cpu(mode):
    with pytest.raises(ConfigError, match=r"runtime\.jit_level=O2 .* is for Ascend, .* the device is CPU; set"):
        runtime.prepare(RuntimeConfig(device="CPU", jit_level="O2"))


@pytest.mark.parametrize(
    ("values", "device", "expected"),
    [
        (
            {"precision": "bf16"},
            "CPU",
            r"precision=bf16 needs Ascend, a GPU, or .*precision=fp32 .*ONEDNN_DEFAULT_FPMATH_MODE",
        ),
        ({"fused_ops": "ascend"}, "CPU", r"fused_ops=ascend needs Ascend.* on a CPU; set runtime\.fused_ops=auto"),
        ({"fused_ops": "ascend"}, "GPU", "on a GPU; set"),
    ],
)
def test_operations_that_the_device_lacks_are_refused_at_the_start(monkeypatch, mode, values, device, expected):
    import mindspore as ms

    from ms_unireid.models.unireid import build_model

    config = RuntimeConfig(device=device, **values)
    monkeypatch.setattr(ms, "get_context", lambda name: device if name == "device_target" else 0)
    monkeypatch.setattr(runtime, "bfloat16_products", frozenset)
    for start in (runtime.prepare, lambda config: build_model(Config().model, runtime=config)):
        with pytest.raises(ConfigError, match=expected):
            start(config)
    runtime.check_operations(RuntimeConfig(**values), "Ascend")


@pytest.mark.parametrize(
    ("words", "expected", "variable"),
    [
        (
            "flags : fpu avx512_bf16 amx_bf16",
            "multiplies in bfloat16 on this processor (amx_bf16, avx512_bf16)",
            "BF16",
        ),
        (
            "flags : fpu avx512_bf16",
            "has no effect on this processor (avx512_bf16); runtime.precision=bf16 takes an operator of ours",
            None,
        ),
        ("flags : fpu avx2", "has no effect on this processor (no bfloat16 products)", ConfigError),
    ],
)
def test_bfloat16_on_a_cpu(monkeypatch, tmp_path, words, expected, variable):
    (tmp_path / "cpuinfo").write_text(words, encoding="utf-8")
    monkeypatch.setattr(runtime, "_CPUINFO", tmp_path / "cpuinfo")
    assert runtime.describe("CPU")["bfloat16"] == f"ONEDNN_DEFAULT_FPMATH_MODE=BF16 {expected}"
    config = RuntimeConfig(device="CPU", precision="bf16")
    if variable is not ConfigError:
        monkeypatch.delenv("ONEDNN_DEFAULT_FPMATH_MODE", raising=False)
        runtime.check_operations(config, "CPU")
        monkeypatch.setattr(runtime, "load_mindspore", lambda: 1 / 0)  # nothing is computed here
        with pytest.raises(ZeroDivisionError):
            runtime.prepare(config)
        assert os.environ.pop("ONEDNN_DEFAULT_FPMATH_MODE", None) == variable
    else:
        with pytest.raises(ConfigError, match="needs Ascend, a GPU, or a processor with AMX or AVX512-BF16"):
            runtime.check_operations(config, "CPU")


@pytest.mark.parametrize(("deterministic", "state"), [(True, "ON"), (False, "OFF")])
def test_deterministic_reaches_mindspore_and_may_be_set_again(deterministic, state):
    # In a separate process, because MindSpore cannot undo it.
    script = (
        "import mindspore as ms, numpy as np\n"
        "from ms_unireid.config import RuntimeConfig\n"
        "from ms_unireid.runtime import prepare\n"
        f"config = RuntimeConfig(device='CPU', deterministic={deterministic})\n"
        "draws = [(prepare(config), ms.ops.uniform((3,), ms.Tensor(0.0), ms.Tensor(1.0)).asnumpy().tolist()) "
        "for _ in range(2)]\n"
        "print('state', ms.get_context('deterministic'), draws[0] == draws[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert f"state {state} {deterministic}" in done.stdout, done.stderr


def test_environment_of_a_run(installed, monkeypatch):
    installed(mindspore="2.9.0")
    monkeypatch.setenv("ONEDNN_DEFAULT_FPMATH_MODE", "BF16")
    described = runtime.describe("CPU")
    assert described.keys() == {
        "python", "platform", "device", "jit_level", "cpu_count", "packages", "variables", "bfloat16", "git_revision",
        "command",
    }  # fmt: skip
    assert described["variables"]["ONEDNN_DEFAULT_FPMATH_MODE"] == "BF16"
    assert described["device"] == "CPU" and described["python"] == platform.python_version()
    assert described["packages"]["mindspore"] == "2.9.0" and described["packages"]["mindcv"] is None


def test_the_git_revision_may_be_missing(monkeypatch):
    def no_git(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(runtime.subprocess, "run", no_git)
    assert runtime.describe("CPU")["git_revision"] is None


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 8, 17])
def test_blocks_in_rank_order_are_the_whole(count, size):
    blocks = [list(range(count))[Processes(rank, size).block(count)] for rank in range(size)]
    assert [number for block in blocks for number in block] == list(range(count))
    # Equal lengths, but for what is missing at the end.
    assert all(len(block) == -(-count // size) for block in blocks[: count // max(1, -(-count // size))])


def test_the_first_process():
    assert [Processes(rank, 3).first for rank in range(3)] == [True, False, False]
    assert Processes().first


def config_of(batch_size: int, *overrides: str) -> Config:
    return load_config(None, [f"data.batch_size={batch_size}", *overrides])


@pytest.mark.parametrize(("batch_size", "size"), [(64, 1), (64, 8), (14, 7)])
def test_a_batch_that_can_be_split(batch_size, size):
    check_batch_size(config_of(batch_size), Processes(0, size))


@pytest.mark.parametrize(
    ("batch_size", "size", "fix"), [(64, 3, "63 or 66"), (5, 2, "4 or 6"), (2, 4, "8"), (3, 2, "4")]
)
def test_a_batch_that_cannot_be_split_names_the_next_sizes(batch_size, size, fix):
    with pytest.raises(ConfigError, match=rf"data\.batch_size={batch_size} .* {size} processes; set it to {fix}, "):
        check_batch_size(config_of(batch_size), Processes(0, size))


def test_a_process_needs_two_pairs_unless_all_are_contrasted_together():
    together = "train.global_batch_objective=true"
    for overrides in ((), (together, "train.accumulation_steps=2")):
        with pytest.raises(ConfigError, match=r"data\.batch_size=4 .* a single pair, .* set it to 8 or more"):
            check_batch_size(config_of(4, *overrides), Processes(0, 4))
    check_batch_size(config_of(4, together), Processes(0, 4))
