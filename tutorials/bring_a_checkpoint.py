"""Bring a PyTorch checkpoint of the authors' UNIReID: convert it, evaluate it, export it. PyTorch is not needed.

python tutorials/bring_a_checkpoint.py                                         # with a stand-in; two minutes
python tutorials/bring_a_checkpoint.py average_best.pth data.name=cuhk_pedes data.root=FOLDER
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout; not needed after `pip install .`

import ms_unireid as mu
from ms_unireid.apps.export.exporting import export_checkpoint
from ms_unireid.apps.export.specification import ExportOptions
from ms_unireid.apps.synthetic.dataset import SyntheticConfig, generate_tri_dataset
from ms_unireid.checkpoints.conversion import Options, convert
from ms_unireid.checkpoints.conversion_report import to_text
from ms_unireid.errors import UserError
from ms_unireid.evaluation.checkpoint_evaluation import CheckpointEvaluator
from ms_unireid.evaluation.evaluator import to_json, to_table
from ms_unireid.runtime import check_packages

MODEL = Path(__file__).resolve().parents[1] / "models" / "synthetic.safetensors"


def make_stand_in() -> tuple[Path, Options, list[str]]:
    """Write a small model as the authors' code writes its own; return file, what it does not say of itself, and data.

    A file of PyTorch has tensors only. Those of the paper's ViT-B/16 at 384x128 say everything; a model of other sizes
    needs its number of heads, by the name of an architecture, and its picture size.
    """
    model = mu.open_model(MODEL).config.model
    mu.register_architecture("stand-in", model.sizes)
    file = Path("runs/tutorial_checkpoint/average_best.pth")
    file.parent.mkdir(parents=True, exist_ok=True)
    convert(MODEL, file, Options(to="pytorch"))
    generate_tri_dataset(Path("data/tutorial_photos"), SyntheticConfig(0, 0, 40))
    about = Options(architecture="stand-in", source_image_size=model.image_size)
    return file, about, ["data.name=cuhk_pedes", "data.root=data/tutorial_photos"]


def main(*arguments: str) -> None:
    """Convert, evaluate, export."""
    check_packages()
    file, about, data = (Path(arguments[0]), Options(), [*arguments[1:]]) if arguments else make_stand_in()

    # 1. Convert. The report has a line for each tensor and ends with what was found and assumed. Nothing in the file is
    #    executed.
    ours = file.with_suffix(".ckpt")
    print(to_text(convert(file, ours, about)).rpartition("\n\n")[2])

    # 2. Evaluate on the test split, as the paper's tables do. `file` itself would do as well as `ours`.
    evaluated = CheckpointEvaluator(ours, overrides=data).evaluate("test")
    print(to_table(to_json(evaluated.results)))

    # 3. Export for programs without this project, as MindIR; ("mindir", "onnx") needs pip install '.[onnx]'. Each file
    #    is compared with the checkpoint before the folder appears.
    folder = file.with_name("exported")
    made = export_checkpoint(ours, folder, ExportOptions(("mindir",), redo=True), overrides=data)
    for name, facts in made["files"].items():
        print(f"{folder / name}: {facts['bytes'] / 2**10:,.0f} KiB, off by {facts['largest_difference']:.1e} at most")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
