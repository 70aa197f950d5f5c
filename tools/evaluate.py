"""Evaluate a checkpoint on a split.

python tools/evaluate.py --checkpoint runs/cuhk/best_average.ckpt --split test --figure ranked.png
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tqdm import tqdm

from ms_unireid.command_line import run
from ms_unireid.config import config_from_dict, load_config
from ms_unireid.data.loading import load_splits
from ms_unireid.files import write_json, write_text
from ms_unireid.runtime import check_packages, prepare


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Evaluate a checkpoint; the table goes to stdout.",
        epilog="example: python tools/evaluate.py --checkpoint runs/demo/best_average.ckpt --split val --json out.json",
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="a .ckpt of a run folder")
    parser.add_argument(
        "--config",
        type=Path,
        action="append",
        help="YAML file, a later one wins; the config saved in the checkpoint otherwise",
    )
    parser.add_argument("--split", default="test", choices=("train", "val", "test"))
    parser.add_argument(
        "--protocol",
        default="paper",
        choices=("paper", "exclude_source_photo", "full_gallery", "all"),
        help="paper: Table 2's three rows without the source photo, and text on the full gallery",
    )
    parser.add_argument("--json", type=Path, help="write the rows as JSON")
    parser.add_argument("--markdown", type=Path, help="write the rows as a Markdown table")
    parser.add_argument("--figure", type=Path, help="draw ranked lists of a few queries (PNG)")
    parser.add_argument("--queries", type=int, default=4, help="persons in the figure")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="change a value of the config")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments)
    check_packages()
    from ms_unireid.evaluation.evaluator import evaluate_features, rows_of, to_json, to_markdown, to_table
    from ms_unireid.evaluation.features import FeatureExtractor
    from ms_unireid.models.unireid import build_model
    from ms_unireid.retrieval.figures import draw_ranked_lists
    from ms_unireid.training.checkpoint import fill, read_checkpoint

    checkpoint = read_checkpoint(options.checkpoint)
    if options.config:
        config = load_config(options.config, options.overrides)
    else:
        config = config_from_dict(checkpoint.meta["config"], str(options.checkpoint), options.overrides)
    annotations = load_splits(config.data, [options.split])[options.split]
    prepare(config.runtime)
    model = build_model(config.model)
    fill(model.get_parameters(), checkpoint)
    with tqdm(unit="batch", desc=options.split) as bar:
        feats = FeatureExtractor(model, config, lambda done, total: bar.update()).split(annotations)
    rows = to_json(evaluate_features(feats, rows_of(options.protocol)))
    print(to_table(rows))
    if options.json:
        write_json(options.json, {"checkpoint": str(options.checkpoint), "split": options.split, "rows": rows})
    if options.markdown:
        write_text(options.markdown, to_markdown(rows) + "\n")
    if options.figure:
        draw_ranked_lists(feats, annotations, options.figure, options.queries)


if __name__ == "__main__":
    run(main)
