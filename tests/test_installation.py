"""The wheel, installed outside the checkout; the requirements and the constraints; the tools in a checkout."""

import importlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from tool_runner import ROOT, SMALL_DATA, TOOLS

import ms_unireid

SOURCES = ("pyproject.toml", "requirements.txt", "README.md", "LICENSE", "NOTICE", "ms_unireid", "configs")
BUILD = "from setuptools import build_meta; build_meta.build_sdist('dist'); build_meta.build_wheel('dist')"
PYTHONS = ("3.10", "3.11", "3.12")
# In a fresh environment: installed packages, without what their own .pth files add, such as an editable checkout.
PACKAGES = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})


def run(*command: object, cwd: Path) -> str:
    """Run a command that must succeed and return its standard output."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(source: Path) -> Path:
    """Build sdist and wheel without a network; return the wheel."""
    run(sys.executable, "-c", BUILD, cwd=source)
    return next((source / "dist").glob("*.whl"))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(path, source / name)
    return build(source)


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory) -> Path:
    """Return the folder with the programs of a fresh environment that has the wheel."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, symlinks=True)
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (site / "packages.pth").write_text("\n".join(PACKAGES), encoding="utf-8")
    pip = (folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-index", "--no-deps")
    run(*pip, "--ignore-installed", wheel, cwd=folder)
    return folder / "bin"


def package_files() -> dict[str, Path]:
    kinds = {".py", ".yaml", ".css", ".js", ".gz", ".cpp"}
    found = [path for folder in ("", "configs") for path in (ROOT / "ms_unireid" / folder).rglob("*")]
    return {path.relative_to(ROOT).as_posix(): path for path in found if path.suffix in kinds}


def assert_complete(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        assert not package_files().keys() - entries.keys()
        for name, path in package_files().items():
            assert entries[name].external_attr >> 28 == 0o10, f"{name}: no regular file"
            assert archive.read(name) == path.read_bytes()


def test_the_wheel_holds_code_configs_vocabulary_style_sheet_and_published_tables(wheel):
    needed = ("configs/base.yaml", "configs/tri_cuhk_pedes/unireid.yaml", "data/bpe_simple_vocab_16e6.txt.gz")
    needed += ("apps/web/page.css", "apps/paper/paper_tables.yaml", "commands/main.py")
    assert {f"ms_unireid/{name}" for name in needed} <= package_files().keys()
    assert_complete(wheel)


def test_a_wheel_built_from_the_sdist_is_as_complete(wheel, tmp_path):
    run(sys.executable, "-m", "tarfile", "-e", next(wheel.parent.glob("*.tar.gz")), tmp_path, cwd=tmp_path)
    assert_complete(build(next(tmp_path.iterdir())))


def test_the_installed_command_knows_its_version_jobs_and_configs(installed, tmp_path):
    where = run(installed / "python", "-c", "import ms_unireid; print(ms_unireid.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent)
    assert run(installed / "unireid", "--version", cwd=tmp_path) == f"unireid {ms_unireid.__version__}\n"
    code = "from ms_unireid.config import load_config; print(load_config('tri_cuhk_pedes/unireid').data.name)"
    assert run(installed / "python", "-c", code, cwd=tmp_path) == "cuhk_pedes\n"


@pytest.mark.slow
def test_the_installed_command_trains_evaluates_and_searches(installed, tmp_path):
    unireid = installed / "unireid"
    run(unireid, "synthetic", "--output", "data", *SMALL_DATA, cwd=tmp_path)
    settings = ("data.name=cuhk_pedes", "data.root=data", "runtime.device=CPU")
    whole_batches = "data.drop_last=true"  # another shape would be compiled, too
    run(unireid, "train", "--config", "smoke", *settings, whole_batches, "train.output=run", cwd=tmp_path)
    best = tmp_path / "run" / "best_average.ckpt"
    settings += ("runtime.graph_mode=false",)  # training has compiled step and encoders
    assert "T+S->R" in run(unireid, "evaluate", "--checkpoint", best, "--config", "smoke", *settings, cwd=tmp_path)
    gallery = ("--dataset", "cuhk_pedes", "--root", "data", "--split", "test", "--checkpoint", best, settings[-1])
    run(unireid, "search", "index", *gallery, "--output", "index", cwd=tmp_path)
    question = ("--index", "index", "--text", "a man in red", "--top-k", "3", "--json", "found.json", settings[-1])
    assert run(unireid, "search", "query", *question, cwd=tmp_path)
    assert "imgs" in (tmp_path / "found.json").read_text(encoding="utf-8")


@pytest.mark.slow
def test_an_installed_package_starts_its_child_processes(installed, tmp_path):
    code = "from ms_unireid.apps.checks.machine import run_child; print(run_child(['devices'], 300, {}))"
    assert "'CPU': 1" in run(installed / "python", "-c", code, cwd=tmp_path)


@pytest.mark.parametrize("tool", sorted(path.name for path in TOOLS.glob("[a-z]*.py")))
def test_the_tools_run_from_any_folder_without_an_installed_package(tool, tmp_path):
    command = [sys.executable, "-S", str(TOOLS / tool), "--help"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(PACKAGES)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith(f"usage: {tool}"), done.stderr


def lines(name: str) -> list[Requirement]:
    texts = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [Requirement(text) for text in texts if text and not text.startswith("#")]


def extras() -> dict[str, list[Requirement]]:
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    project = toml.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {name: [*map(Requirement, texts)] for name, texts in project["optional-dependencies"].items()}


def test_the_list_for_sketches_alone_is_the_extra_and_a_part_of_the_core():
    alone, core = ({str(wish) for wish in lines(name)} for name in ("requirements-sketch.txt", "requirements.txt"))
    extra = {str(wish) for wish in extras()["sketch"]}
    assert extra <= alone and alone - extra <= core and not any("mindspore" in wish for wish in alone)


@pytest.mark.parametrize("python", PYTHONS)
def test_the_constraints_name_one_fitting_version_of_each_requirement(python):
    pins = [
        pin for pin in lines("constraints.txt") if not pin.marker or pin.marker.evaluate({"python_version": python})
    ]
    versions = {pin.name.lower(): next(iter(pin.specifier)).version for pin in pins}
    assert len(versions) == len(pins) and all(pin.url is None for pin in pins)
    wanted = [
        *lines("requirements.txt"),
        *(
            wish
            for name in (
                "app",
                "docs",
                "onnx",
                "openvino",
                "heic",
                "faiss",
                "milvus",
                "ray",
                "remote",
                "tensorboard",
                "test",
            )
            for wish in extras()[name]
        ),
    ]
    for wish in wanted:
        assert wish.name == "ms-unireid" or wish.specifier.contains(versions[wish.name.lower()]), wish


def test_the_containers_start_jobs_that_exist_and_have_the_extras_that_exist():
    """compose.yaml is not run here; its image, its commands and its volumes are read."""
    from ms_unireid.commands import app

    composed = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    dockerfile = composed["services"]["page"]["build"]["dockerfile_inline"]
    assert set(re.search(r"'\.\[(.*)\]'", dockerfile)[1].split(",")) <= extras().keys()
    copied = re.findall(r"^COPY (.*) \S+$", dockerfile, re.MULTILINE)
    assert {name for names in copied for name in names.split()} == {*SOURCES, "requirements.txt", "constraints.txt"}
    unireid, job, *arguments = composed["services"]["page"]["command"]
    options = app._parse(arguments)
    assert (unireid, job, options.allow_remote, options.token) == ("unireid", "app", True, None)
    assert options.index == "http://milvus:19530" and f"127.0.0.1:{options.port}:8080" in str(composed["services"])
    assert composed["services"]["ray"]["command"][:3] == ["ray", "start", "--head"]
    assert set(composed["volumes"]) == {"milvus"} and len(composed["services"]["ray"]["volumes"]) == 3
