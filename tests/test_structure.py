"""The house stands: imports lead downward only, light modules stay light, everything public is documented."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "ms_unireid"

# Bottom to top. A file may import what comes before it in its own list, and all of a lower floor.
FLOORS = [
    {
        "": [
            "errors",
            "picture_files",
            "architectures",
            "config_schema",
            "config",
            "files",
            "findings",
            "command_line",
            "runtime",
            "processes",
            "distributed",
        ]
    },
    {
        "sketch": [
            "extras",
            "pictures",
            "masks",
            "onnx_model",
            "background",
            "strokes",
            "pencil",
            "lines",
            "external",
            "synthesis",
            "recipe",
            "artist",
            "naming",
            "sketch_file",
            "manifest",
            "workers",
            "build",
            "contact_sheet",
            "merging",
            "quality",
        ]
    },
    {
        "data": [
            "json_file",
            "folders",
            "annotations",
            "pictures",
            "tri_pedes",
            "published",
            "data_findings",
            "named_files",
            "sketch_sets",
            "person_captions",
            "pku_sketch",
            "pku_trials",
            "market_sketch",
            "photo_sets",
            "loading",
            "evaluation_sets",
            "tokenizer",
            "transforms",
            "decoded_store",
            "decoded_cache",
            "samplers",
            "pipeline",
            "verify_report",
            "verify_scan",
            "verify_layout",
            "verify_captions",
            "verify_pictures",
            "verify_tri",
            "verify_sketch_sets",
            "verify",
            "synthetic_person",
            "synthetic_captions",
            "synthetic_outlines",
            "synthetic_figure",
            "synthetic_drawing",
            "synthetic",
        ],
        "models": ["products", "ops", "transformer", "positions", "vision", "clip", "unireid", "encoders", "rollout"],
        "losses": ["contrastive", "dynamic", "interaction", "objective"],
    },
    {
        "conversion": [
            "dtypes",
            "tensor_file",
            "mapped_file",
            "pickles",
            "torch_objects",
            "zip_records",
            "torch_reader",
            "safetensors_reader",
            "folder_reader",
            "mindspore_file",
            "reading",
            "safetensors_writer",
            "torch_writer",
            "names",
            "known_files",
            "sources",
            "fitting",
            "layouts",
            "torch_features",
            "verify",
            "convert",
            "report",
            "mindnlp_child",
            "mindnlp_bridge",
        ],
        "evaluation": [
            "similarity",
            "ranking",
            "metrics",
            "reranking",
            "questions",
            "protocols",
            "features",
            "evaluator",
            "figures",
            "paper_tables",
        ],
    },
    {
        "training": [
            "optimizer",
            "network",
            "gradient",
            "loss_scale",
            "update",
            "train_step",
            "checkpoint",
            "run_folder",
            "stop_request",
            "curves",
            "monitor",
            "seeds",
            "trainer",
            "checkpoint_evaluation",
            "table_plan",
            "table_report",
            "reproduce",
            "doctor_packages",
            "doctor_child",
            "doctor",
        ]
    },
    {
        "retrieval": [
            "error_analysis",
            "manifest",
            "index",
            "scanning",
            "indexing",
            "nearest",
            "approximate",
            "queries",
            "searcher",
            "search_report",
            "search_figure",
            "access",
            "uploads",
            "drawing",
            "thumbnails",
            "page_query",
            "search_worker",
            "page_sketch",
            "page_form",
            "page_results",
            "app",
        ],
        "export": [
            "options",
            "cells",
            "onnx_files",
            "loading",
            "samples",
            "parts",
            "runner",
            "verification",
            "specification",
            "exporting",
        ],
    },
]

WITHOUT_MINDSPORE = [
    "picture_files",
    *(f"sketch.{name}" for name in FLOORS[1]["sketch"]),
    "config",
    "config_schema",
    "architectures",
    "errors",
    "files",
    "findings",
    "command_line",
    "runtime",
    "data.json_file",
    "data.folders",
    "data.annotations",
    "data.pictures",
    "data.tri_pedes",
    "data.published",
    "data.data_findings",
    "data.named_files",
    "data.sketch_sets",
    "data.person_captions",
    "data.pku_sketch",
    "data.pku_trials",
    "data.market_sketch",
    "data.photo_sets",
    "data.loading",
    "data.tokenizer",
    "data.transforms",
    "data.decoded_store",
    "data.decoded_cache",
    "data.samplers",
    "data.verify_report",
    "data.verify_scan",
    "data.verify_layout",
    "data.verify_captions",
    "data.verify_pictures",
    "data.verify_tri",
    "data.verify_sketch_sets",
    "data.verify",
    "data.synthetic",
    "data.synthetic_person",
    "data.synthetic_captions",
    "data.synthetic_outlines",
    "data.synthetic_figure",
    "data.synthetic_drawing",
    "conversion.dtypes",
    "conversion.tensor_file",
    "conversion.mapped_file",
    "conversion.pickles",
    "conversion.torch_objects",
    "conversion.zip_records",
    "conversion.torch_reader",
    "conversion.safetensors_reader",
    "conversion.folder_reader",
    "conversion.mindspore_file",
    "conversion.reading",
    "conversion.safetensors_writer",
    "conversion.torch_writer",
    "conversion.names",
    "conversion.known_files",
    "conversion.sources",
    "conversion.fitting",
    "conversion.layouts",
    "conversion.torch_features",
    "conversion.convert",
    "conversion.report",
    "conversion.mindnlp_child",
    "conversion.mindnlp_bridge",
    "evaluation.similarity",
    "evaluation.ranking",
    "evaluation.metrics",
    "evaluation.reranking",
    "evaluation.questions",
    "evaluation.protocols",
    "evaluation.paper_tables",
    "data.evaluation_sets",
    "training.table_plan",
    "training.table_report",
    "retrieval.error_analysis",
    "evaluation.evaluator",
    "processes",
    "training.run_folder",
    "training.loss_scale",
    "training.curves",
    "training.monitor",
    "training.seeds",
    "training.doctor_packages",
    "training.doctor_child",
    "training.doctor",
    "evaluation.figures",
    "retrieval.manifest",
    "retrieval.index",
    "retrieval.scanning",
    "retrieval.nearest",
    "retrieval.approximate",
    "retrieval.queries",
    "retrieval.search_report",
    "export.options",
    "export.onnx_files",
    "export.samples",
    "export.runner",
    "export.verification",
    "export.specification",
    "retrieval.access",
    "retrieval.uploads",
    "retrieval.drawing",
    "retrieval.thumbnails",
    "retrieval.page_query",
]

MACHINE_PATH = re.compile(r"(?<![\w.])/(work|home|root|Users|mnt)/")
SHIPPED_FOLDERS = (PACKAGE, "tools", "configs", "docs")
SHIPPED_FILES = (
    "README.md",
    "CHANGELOG.md",
    "Makefile",
    "pyproject.toml",
    "requirements.txt",
    "requirements-mindnlp.txt",
    "requirements-sketch.txt",
    "requirements-onnx.txt",
    "requirements-app.txt",
    "requirements-faiss.txt",
)


def places() -> dict[str, tuple[int, str, int]]:
    """Map each listed module (without the package's name) to its floor, folder and rank in the folder."""
    return {
        f"{folder}.{name}".lstrip("."): (level, folder, rank)
        for level, floor in enumerate(FLOORS)
        for folder, names in floor.items()
        for rank, name in enumerate(names)
    }


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


def own_imports(path: Path) -> set[str]:
    """List the listed modules of the package that a file imports."""
    prefix = f"{PACKAGE}."
    return {name.removeprefix(prefix) for name in imported(path) if name.startswith(prefix)} & places().keys()


def allowed(importer: str, target: str) -> bool:
    level, folder, rank = places()[importer]
    target_level, target_folder, target_rank = places()[target]
    return target_level < level or (target_folder == folder and target_rank < rank)


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


def test_every_module_has_its_place():
    assert module_files().keys() == places().keys()


@pytest.mark.parametrize("module", sorted(module_files()))
def test_imports_lead_downward(module):
    wrong = sorted(t for t in own_imports(module_files()[module]) if not allowed(module, t))
    assert not wrong, f"{module} imports {wrong}, which are not below it"


def test_the_rule_itself():
    assert allowed("training.trainer", "evaluation.metrics")
    assert allowed("data.pipeline", "data.annotations")
    assert not allowed("data.annotations", "data.pipeline")
    assert not allowed("models.unireid", "losses.objective")
    assert not allowed("config", "data.tokenizer")
    assert "training.run_folder" in own_imports(ROOT / PACKAGE / "training" / "trainer.py")
    assert "runtime" in own_imports(ROOT / "tools" / "train.py")


def test_the_package_never_imports_the_tools_or_tests():
    names = {name.split(".")[0] for path in module_files().values() for name in imported(path)}
    assert not names & {"tools", "tests", "train", "evaluate", "reference", "pytest"}


def test_torch_is_for_tests_and_the_cross_check_of_a_conversion_only():
    modules = {name: path for name, path in module_files().items() if name != "conversion.torch_features"}
    files = [*modules.values(), *(p for p in (ROOT / "tools").glob("*.py") if p.name != "benchmark.py")]
    assert not [str(f) for f in files if any(name.split(".")[0] == "torch" for name in imported(f))]


def test_modules_that_need_no_mindspore_import_none():
    names = [f"{PACKAGE}.{module}" for module in WITHOUT_MINDSPORE]
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


def test_the_sketches_stand_alone_at_the_bottom():
    """They are of use without the rest, and draw without OpenCV: only what is asked for by name is imported."""
    lowest = {"errors", "files", "picture_files", "config"}
    folder = ROOT / PACKAGE / "sketch"
    found = {name for path in folder.glob("*.py") for name in own_imports(path) if not name.startswith("sketch.")}
    assert found == lowest
    optional = {"cv2", "mediapipe", "onnxruntime", "rembg"}
    assert not {name for path in folder.glob("*.py") for name in imported(path)} & optional


def test_no_machine_paths_are_shipped():
    assert len(shipped_texts()) > 40
    found = [str(p) for p in shipped_texts() if MACHINE_PATH.search(p.read_text(encoding="utf-8"))]
    assert not found
    assert MACHINE_PATH.search("data.root=/work/x") and not MACHINE_PATH.search("../home/x")
