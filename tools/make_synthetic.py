"""Make a synthetic Tri data set (photos, captions, sketches) in the CUHK-PEDES layout."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ms_unireid.data.synthetic import SyntheticConfig, generate_tri_dataset  # noqa: E402
from ms_unireid.errors import UserError  # noqa: E402


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    default = SyntheticConfig()
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python tools/make_synthetic.py --output data/synthetic --workers 2",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, help="folder that will hold CUHK-PEDES/")
    parser.add_argument("--train-identities", type=int, default=default.train_identities, help="people to train on")
    parser.add_argument("--val-identities", type=int, default=default.val_identities, help="people to validate on")
    parser.add_argument("--test-identities", type=int, default=default.test_identities, help="people to test on")
    parser.add_argument("--photos", type=int, default=default.photos_per_identity, help="photos of each person")
    parser.add_argument("--captions", type=int, default=default.captions_per_photo, help="captions of each photo")
    parser.add_argument("--seed", type=int, default=default.seed, help="of all random draws")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--force", action="store_true", help="replace an existing synthetic data set")
    return parser.parse_args(argv)


def show_progress(done: int, total: int) -> None:
    """Count identities on stderr."""
    if done % 20 == 0 or done == total:
        print(f"\r{done}/{total} identities", end="\n" if done == total else "", file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Make the data set and print its counts as one JSON line; return the exit code."""
    args = parse_args(argv)
    try:
        counts = (args.train_identities, args.val_identities, args.test_identities, args.photos, args.captions)
        config = SyntheticConfig(*counts, seed=args.seed)
        folder = generate_tri_dataset(args.output, config, args.workers, show_progress, args.force)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"folder": str(folder), **config.counts(), "seed": config.seed}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
