"""The structure: imports lead downward only, light modules import no MindSpore, everything public is documented."""

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "ms_unireid"

# Bottom to top: a file imports only files of its own floor or below. `""` are the files outside the folders.
FLOORS = ("", "data models losses", "checkpoints", "evaluation", "training", "apps", "commands")
# Imports between apps; no other app imports another, except the benchmarks, which measure them.
BETWEEN_APPS = {
    ("web", "search"),
    ("sketch", "optional"),
    ("search", "optional"),
    ("search", "export"),
    ("export", "optional"),
    ("web", "optional"),
    ("web", "sketch"),
    ("export", "synthetic"),
    ("synthetic", "sketch"),
}
NEEDS_MINDSPORE = {
    "adam", "distributed", "losses", "models", "data.pipeline",
    "checkpoints.conversion_check", "evaluation.encoder", "training.gradient", "training.piecewise",
    "training.loss_scale", "training.optimizer", "training.train_step", "training.trainer", "training.run_data",
    "training.batch_figure",
    "apps.benchmarks", "apps.export.exporting", "apps.export.parts", "apps.paper.reproduce", "apps.search.encoding",
    "apps.search.rollout", "apps.web",
}  # fmt: skip

MACHINE_PATH = re.compile(r"(?<![\w.])/(work|home|root|Users|mnt)/")
SHIPPED_FOLDERS = (PACKAGE, "tools", "tutorials", "configs", "docs")
SHIPPED_FILES = (
    "README.md",
    "README_CN.md",
    "SECURITY.md",
    "CITATION.cff",
    "CHANGELOG.md",
    "Makefile",
    "pyproject.toml",
    "requirements.txt",
    "requirements-sketch.txt",
    "constraints.txt",
    "compose.yaml",
    "CONTRIBUTING.md",
)


@functools.cache
def module_files() -> dict[str, Path]:
    package = ROOT / PACKAGE
    files = (path for path in package.rglob("*.py") if path.name != "__init__.py")
    return {".".join(path.relative_to(package).with_suffix("").parts): path for path in files}


def imported(path: Path) -> Iterator[str]:
    """Yield the dotted names a file imports, wherever in it, and for `from a import b` also `a.b`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@functools.cache
def own_imports(path: Path) -> set[str]:
    """List the modules of the package that a file imports, without the package's name."""
    prefix = f"{PACKAGE}."
    return {name.removeprefix(prefix) for name in imported(path) if name.startswith(prefix)} & module_files().keys()


def floor(module: str) -> int:
    folder = module.split(".")[0]
    return next((level for level, names in enumerate(FLOORS) if folder in names.split()), 0)


def app(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "apps" else None


def wrong_imports(module: str, targets: set[str]) -> list[str]:
    apart = {t for t in targets if app(module) and app(t) and app(module) != app(t)}
    up = {t for t in targets if floor(t) > floor(module)}
    measures = app(module) == "benchmarks"
    return sorted(up | {t for t in apart if not measures and (app(module), app(t)) not in BETWEEN_APPS})


def is_public(node: ast.AST) -> bool:
    return isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")


def undocumented(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    public = [node for node in tree.body if is_public(node)]
    methods = [m for node in public if isinstance(node, ast.ClassDef) for m in node.body if is_public(m)]
    bare = [node.name for node in [*public, *methods] if not ast.get_docstring(node)]
    return bare if ast.get_docstring(tree) else ["the module", *bare]


def shipped_texts() -> list[Path]:
    found = [path for folder in SHIPPED_FOLDERS for path in (ROOT / folder).rglob("*")]
    kinds = {".py", ".yaml", ".md", ".txt", ".toml"}
    return [p for p in found if p.suffix in kinds] + [ROOT / name for name in SHIPPED_FILES if (ROOT / name).exists()]


@pytest.mark.parametrize("module", sorted(module_files()))
def test_imports_lead_downward(module):
    assert not wrong_imports(module, own_imports(module_files()[module]))


def test_no_imports_run_in_a_circle():
    graph = {module: own_imports(path) for module, path in module_files().items()}
    while free := [module for module, targets in graph.items() if not targets & graph.keys()]:
        for module in free:
            del graph[module]
    assert not graph


def test_the_rule_itself():
    assert not wrong_imports("training.trainer", {"evaluation.metrics", "data.annotations"})
    assert wrong_imports("models.unireid", {"training.trainer"}) and wrong_imports("config", {"data.tokenizer"})
    assert wrong_imports("evaluation.metrics", {"apps.search.index"})
    assert wrong_imports("apps.paper.reproduce", {"apps.search.index"})
    assert not wrong_imports("apps.web.page", {"apps.search.index"})
    assert "training.run_folder" in own_imports(ROOT / PACKAGE / "training" / "trainer.py")
    assert "runtime" in own_imports(ROOT / PACKAGE / "commands" / "train.py")


def test_no_small_file_has_a_single_importer():
    files = module_files()
    importers = {name: [m for m, path in files.items() if name in own_imports(path)] for name in files}
    small = {name for name, path in files.items() if len(path.read_text(encoding="utf-8").splitlines()) < 40}
    assert not sorted(name for name in small if len(importers[name]) == 1)


def test_the_package_never_imports_the_tools_or_tests():
    names = {name.split(".")[0] for path in module_files().values() for name in imported(path)}
    assert not names & {"tools", "tests", "train", "evaluate", "reference", "pytest"}


def test_torch_is_for_tests_benchmarks_and_the_cross_check_of_a_conversion_only():
    found = {m for m, path in module_files().items() if any(n.split(".")[0] == "torch" for n in imported(path))}
    assert not {m for m in found if not m.startswith("apps.benchmarks.")} - {"checkpoints.torch_features"}


def test_modules_that_need_no_mindspore_import_none():
    allowed = tuple(f"{name}." for name in NEEDS_MINDSPORE)
    names = [f"{PACKAGE}.{name}" for name in sorted(module_files()) if not f"{name}.".startswith(allowed)]
    script = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "    assert not {'mindspore', 'torch'} & sys.modules.keys(), name\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", sorted(module_files()))
def test_everything_public_is_documented(module):
    assert not undocumented(module_files()[module])


def test_sketches_need_no_optional_package_to_be_imported():
    optional = {"cv2", "mediapipe", "onnxruntime", "rembg"}
    assert (
        not {name for path in (ROOT / PACKAGE / "apps" / "sketch").glob("*.py") for name in imported(path)} & optional
    )


def test_no_machine_paths_are_shipped():
    assert len(shipped_texts()) > 40
    found = [str(p) for p in shipped_texts() if MACHINE_PATH.search(p.read_text(encoding="utf-8"))]
    assert not found
    assert MACHINE_PATH.search("data.root=/work/x") and not MACHINE_PATH.search("../home/x")
