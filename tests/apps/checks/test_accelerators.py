"""What the doctor says of a GPU or Ascend that MindSpore does not see; folders and scripts stand for CUDA and CANN."""

import importlib.util
from types import SimpleNamespace

import pytest

from ms_unireid.apps.checks import accelerators
from ms_unireid.apps.checks.accelerators import check_accelerator

NVCC = "nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release {}, V{}.124\n"
LDD = "\tlibc.so.6 => /lib/libc.so.6 (0x1)\n" + "".join(
    f"\tlib{name} => not found\n" for name in ("cublas.so.11", "cudnn.so.8", "cuda.so.1")
)


def script(file, text):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\ncat <<'END'\n{text}END\n", encoding="utf-8")
    file.chmod(0o755)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Return a machine with all that MindSpore needs: drivers, plugins, CUDA and CANN."""
    plugins = tmp_path / "mindspore" / "lib" / "plugin"
    plugins.mkdir(parents=True)
    for name in ("gpu.so.11.1", "gpu.so.11.6", "ascend.so.2"):
        (plugins / f"libmindspore_{name}").touch()
    for name in ("driver", "cann/opp"):
        (tmp_path / name).mkdir(parents=True)
    found = {
        name: SimpleNamespace(submodule_search_locations=[tmp_path / name]) for name in ("mindspore", "te", "hccl")
    }
    monkeypatch.setattr(importlib.util, "find_spec", found.get)
    for device in ("GPU", "Ascend"):
        monkeypatch.setitem(accelerators.DRIVERS, device, tmp_path / "driver")
    script(tmp_path / "cuda" / "bin" / "nvcc", NVCC.format("11.6", "11.6"))
    script(tmp_path / "bin" / "ldd", "")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path / "cann"))
    monkeypatch.setenv("ASCEND_OPP_PATH", str(tmp_path / "cann" / "opp"))
    return SimpleNamespace(root=tmp_path, packages=found, plugins=plugins)


@pytest.mark.parametrize("device", ["GPU", "Ascend"])
def test_where_nothing_lacks_mindsporess_own_log_is_the_fix(machine, device):
    (found,) = check_accelerator(device, "warning")
    assert (found.what, found.state) == (device, "warning") and "GLOG_v=1" in found.fix


@pytest.mark.parametrize("device", ["GPU", "Ascend"])
def test_a_machine_without_driver_or_plugin(machine, monkeypatch, device):
    monkeypatch.setitem(accelerators.DRIVERS, device, machine.root / "none")
    for file in machine.plugins.iterdir():
        file.unlink()
    driver, plugin = check_accelerator(device, "problem")
    assert "no driver" in driver.detail and "container" in driver.fix
    assert plugin.detail == f"MindSpore's package has no plugin for {device}"


@pytest.mark.parametrize(
    ("home", "release", "words", "plugin"),
    [
        ("", "11.6", "CUDA_HOME is not set", "11.6"),
        ("nowhere", "11.6", "nvcc --version names no release", "11.6"),
        ("cuda", "11.6", None, "11.6"),
        ("cuda", "11.8", None, "11.6"),
        ("cuda", "11.2", None, "11.1"),
        ("cuda", "12.4", "of CUDA 12.4; MindSpore's package has plugins for 11.1 and 11.6", "11.6"),
        ("cuda", "11.0", "of CUDA 11.0", "11.6"),
    ],
)
def test_cuda_home_and_nvcc_choose_the_plugin(machine, monkeypatch, home, release, words, plugin):
    monkeypatch.setenv("CUDA_HOME", str(machine.root / home) if home else "")
    script(machine.root / "cuda" / "bin" / "nvcc", NVCC.format(release, release))
    asked = []
    run = accelerators.run
    monkeypatch.setattr(accelerators, "run", lambda command: asked.append(command) or run(command))
    (found,) = check_accelerator("GPU", "problem")
    assert (words or "all that MindSpore's plugin links to") in found.detail
    assert asked[-1] == ["ldd", machine.plugins / f"libmindspore_gpu.so.{plugin}"]
    assert not words or "CUDA 11.6" in found.fix


def test_missing_libraries_are_grouped_by_their_fix(machine):
    script(machine.root / "bin" / "ldd", LDD)
    found = {one.detail: one.fix for one in check_accelerator("GPU", "problem")}
    cudnn, driver, cuda = (
        found[f"the loader does not find lib{name}"] for name in ("cudnn.so.8", "cuda.so.1", "cublas.so.11")
    )
    assert "cuDNN 8" in cudnn and "driver" in driver and "$CUDA_HOME/lib64 of CUDA 11.6" in cuda


def test_what_lacks_of_cann(machine, monkeypatch):
    monkeypatch.delenv("ASCEND_OPP_PATH")
    monkeypatch.setenv("ASCEND_HOME_PATH", "nowhere")
    script(machine.root / "bin" / "ldd", "libascend_hal.so => not found\nlibascendcl.so => not found\n")
    del machine.packages["te"], machine.packages["hccl"]
    (machine.root / "driver").chmod(0)
    monkeypatch.setattr(accelerators.os, "access", lambda path, mode: False)
    found = {one.detail: one.fix for one in check_accelerator("Ascend", "problem")}
    assert list(found) == [
        f"{machine.root / 'driver'} is not open to you",
        "ASCEND_HOME_PATH is nowhere, which is no folder",
        "ASCEND_OPP_PATH is not set",
        "the Python package te of CANN is missing",
        "the Python package hccl of CANN is missing",
        "the loader does not find libascend_hal.so",
        "the loader does not find libascendcl.so",
    ]
    assert [fix for fix in found.values() if "HwHiAiUser" in fix] and "driver" in found[
        "the loader does not find libascend_hal.so"
    ]
    assert sum("set_env.sh" in fix for fix in found.values()) == 6


def test_this_mindspore_links_to_cuda_and_cann(monkeypatch):
    if not accelerators._plugins("gpu"):
        pytest.skip("this MindSpore has no plugin for GPU")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    if accelerators.DRIVERS["GPU"].exists() or accelerators.DRIVERS["Ascend"].exists():
        pytest.skip("this machine may have the libraries")
    told = {
        device: " ".join(one.detail for one in check_accelerator(device, "problem")) for device in ("GPU", "Ascend")
    }
    assert "libcudnn.so.8" in told["GPU"] and "libcublas.so.11" in told["GPU"]
    assert "libascendcl.so" in told["Ascend"] and "libhccl.so" in told["Ascend"]
