"""Find a person in a folder of photos, by a description, by a sketch, and by both.

python tutorials/find_in_your_folder.py                                   # draws photos first; a minute
python tutorials/find_in_your_folder.py PHOTOS CHECKPOINT "a woman in a red coat" sketch.png
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout; not needed after `pip install .`

import ms_unireid as mu
from ms_unireid.apps.search.indexing import build_index, photo_source
from ms_unireid.apps.synthetic.dataset import SyntheticConfig, generate_tri_dataset
from ms_unireid.errors import UserError
from ms_unireid.runtime import check_packages

MODEL = Path(__file__).resolve().parents[1] / "models" / "synthetic.safetensors"


def draw_photos() -> tuple[str, str, str, str]:
    """Draw 40 persons with 4 photos each; return the folder, a model that knows such people, and what to ask for."""
    people = generate_tri_dataset(Path("data/tutorial_photos"), SyntheticConfig(0, 0, 40))
    wanted = json.loads((people / "reid_raw.json").read_text(encoding="utf-8"))[0]
    sketch = people / "imgs-sketch2" / wanted["file_path"]
    return str(people / "imgs"), str(MODEL), wanted["captions"][0], str(sketch)


def main(*arguments: str) -> None:
    """Index, search, print."""
    photos, checkpoint, text, sketch = arguments or draw_photos()
    check_packages()

    # 1. Index the folder. Run it again when photos have come or gone: only new ones are encoded.
    index = Path("runs/tutorial_index")
    report = build_index(index, [photo_source(Path(photos))], Path(checkpoint))
    print(f"{report.photos} photos in {index}")

    # 2. Search. The searcher loads the model that made the index.
    searcher = mu.Searcher.open(index)
    questions = {
        "by text": {"text": text},
        "by sketch": {"sketch": sketch},
        "by both": {"text": text, "sketch": sketch},
    }
    print(f"wanted: {text}")
    for name, question in questions.items():
        hits = searcher.search(**question, top_k=5)
        print(f"{name:10} " + "  ".join(f"{hit.score:.3f} {hit.path.name}" for hit in hits))

    # 3. More of the same: the first photo as a further query, with the description.
    first = hits[0]
    print("like first " + "  ".join(hit.path.name for hit in searcher.search(text=text, photo=first.path, top_k=5)))


if __name__ == "__main__":
    if len(sys.argv) not in (1, 5):
        sys.exit(f"usage: {sys.argv[0]} [PHOTOS CHECKPOINT TEXT SKETCH]")
    try:
        main(*sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
