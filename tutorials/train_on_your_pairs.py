"""Train on your own pairs: from a folder with photos and a table to a model, its scores and a picture of its results.

python tutorials/train_on_your_pairs.py                          # draws people first; some minutes on two CPU cores
python tutorials/train_on_your_pairs.py people                   # your folder with pairs.csv: docs/datasets.md
python tutorials/train_on_your_pairs.py people train.epochs=10   # and changes of the config
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout; not needed after `pip install .`

import ms_unireid as mu
from ms_unireid.apps.synthetic.dataset import SyntheticConfig, generate_tri_dataset
from ms_unireid.errors import UserError
from ms_unireid.evaluation.checkpoint_evaluation import CheckpointEvaluator
from ms_unireid.evaluation.evaluator import to_json, to_table
from ms_unireid.evaluation.figures import draw_ranked_lists
from ms_unireid.runtime import describe, prepare
from ms_unireid.training.batch_figure import draw_batch


def draw_people() -> Path:
    """Draw 1,000 persons to train on, and others to choose and to test; return the folder with pairs.csv."""
    return generate_tri_dataset(
        Path("data/tutorial"), SyntheticConfig(1000, 20, 50, train_photos=2, modalities=("sketch",))
    )


def main(folder: str | None = None, *changes: str) -> None:
    """Train, evaluate, draw."""
    # 1. The pairs. pairs.csv has a row for each photo: id, file_path, captions, sketch, and split where you have one.
    people = Path(folder) if folder else draw_people()

    # 2. The config: a small model from scratch. For real photos take the paper's model and OpenAI's weights instead:
    #    mu.load_config("tri_cuhk_pedes/unireid", ["model.pretrained=ViT-B-16.pt", ...]).
    settings = ["data.name=pairs", f"data.root={people}", "eval.splits=null", "train.output=runs/tutorial", *changes]
    config = mu.load_config("synthetic/demo", settings)
    environment = describe(prepare(config.runtime))

    # 3. Train. The trainer checks table and pictures first. A look at its first batch shows what the network gets.
    trainer = mu.Trainer(config, environment)
    run = Path(config.train.output)
    draw_batch(trainer.data, run / "batch.png", count=6)
    trainer.fit()

    # 4. Evaluate the best weights on persons who took no part, and draw what was found: green is the person.
    evaluated = CheckpointEvaluator(run / "best_average.ckpt").evaluate("test")
    print(to_table(to_json(evaluated.results)))
    draw_ranked_lists(evaluated.feats, evaluated.data, run / "ranked.png")
    print(f"look at {run / 'batch.png'}, {run / 'curves.png'} and {run / 'ranked.png'}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
