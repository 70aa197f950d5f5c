"""The styles: black lines on white, hatched dark clothes, thin strokes, variations, external programs."""

import sys

import numpy as np
import pytest
from apps.sketch.photo_factory import person, person_mask
from PIL import Image

from ms_unireid.apps.sketch.external import CommandStyle
from ms_unireid.apps.sketch.lines import Lines
from ms_unireid.apps.sketch.pencil import Pencil
from ms_unireid.apps.sketch.pictures import put_on_white, resize
from ms_unireid.apps.sketch.quality import stroke_widths
from ms_unireid.errors import ConfigError, DataError, EnvironmentProblem

SIZE = (384, 128)
STYLES = [Pencil(), Lines()]


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def cut():
    mask = resize(np.asarray(person_mask(), np.float32) / 255, SIZE).clip(0, 1)
    return put_on_white(resize(np.asarray(person()), SIZE), mask), mask


def trousers(sketch: np.ndarray) -> np.ndarray:
    return sketch[220:330, 45:60].astype(float)


@pytest.mark.parametrize("style", STYLES, ids=["pencil", "lines"])
def test_ink_is_on_the_person_and_paper_elsewhere(cut, style):
    sketch = style.load()(*cut, rng())
    assert sketch.shape == SIZE and sketch.dtype == np.uint8
    far = np.asarray(person_mask((128, 384)).resize((128, 384))) == 0
    assert 0.02 < (sketch < 128).mean() < 0.4
    assert (sketch[far] > 200).mean() > 0.93


@pytest.mark.parametrize("style", STYLES, ids=["pencil", "lines"])
def test_the_same_seed_draws_the_same_and_a_variation_differs(cut, style):
    first, again = (style.load()(*cut, rng()) for _ in range(2))
    assert (first == again).all()
    others = [style.varied(rng(seed)).load()(*cut, rng(seed)) for seed in (2, 3)]
    for one, two in ((first, others[0]), (others[0], others[1])):
        assert np.abs(one.astype(int) - two).mean() > 2
    for other in others:  # still the same person: the blurred drawings agree
        small = [resize(255 - picture, (48, 16)).astype(float).ravel() for picture in (first, other)]
        assert np.corrcoef(small)[0, 1] > 0.7


def test_pencil_hatches_dark_clothes_and_not_bright_ones(cut):
    sketch = Pencil().load()(*cut, rng())
    plain = Pencil(tone=0.0).load()(*cut, rng())
    skin = sketch[30:55, 55:73]
    assert trousers(sketch).mean() < 190 < skin.mean()
    assert trousers(plain).mean() > trousers(sketch).mean() + 40


def test_pencil_outlines_white_clothes():
    white, mask = np.full((*SIZE, 3), 255, np.uint8), np.zeros(SIZE, np.float32)
    mask[60:320, 40:90] = 1
    sketch = Pencil().load()(white, mask, rng())
    assert sketch[150:250, 38:44].min() < 180 and (sketch[150:250, 55:75] > 240).all()


def test_lines_are_thin_and_follow_their_width(cut):
    widths = [np.median(stroke_widths(Lines(width=width).load()(*cut, rng()) < 128)) for width in (1.6, 5.0)]
    assert widths[0] < 3 < widths[1]


def test_a_picture_of_one_colour_gives_an_empty_sheet():
    flat, mask = np.full((*SIZE, 3), 90, np.uint8), np.ones(SIZE, np.float32)
    assert (Lines().load()(flat, mask, rng()) == 255).all()
    assert (Pencil(tone=0.0).load()(flat, mask, rng()) == 255).all()


@pytest.mark.parametrize("size", [(16, 16), (768, 256)])
@pytest.mark.parametrize("style", STYLES, ids=["pencil", "lines"])
def test_other_sizes(size, style):
    photo, mask = resize(np.asarray(person()), size), np.ones(size, np.float32)
    assert style.varied(rng()).load()(photo, mask, rng()).shape == size


@pytest.mark.parametrize("style", [Pencil(thickness=0), Pencil(tone=2), Lines(scale=0), Lines(strong=0.001)])
def test_options_out_of_range_are_refused(style):
    with pytest.raises(ConfigError, match="the style"):
        style.load()


PROGRAM = """
import sys, time
from PIL import Image
photo, sketch, what = sys.argv[1:]
if what == "sleep": time.sleep(60)
if what == "fail": sys.exit("no credit left")
if what == "silent": sys.exit(0)
if what == "garbage": open(sketch, "w").write("no picture"); sys.exit(0)
Image.open(photo).convert("L").resize((30, 60)).save(sketch)
"""


@pytest.fixture
def program(tmp_path):
    (tmp_path / "draw it.py").write_text(PROGRAM)
    return f"{sys.executable} '{tmp_path / 'draw it.py'}' {{photo}} {{sketch}}"


def test_a_program_gets_the_cut_out_and_its_sketch_is_resized(cut, program):
    sketch = CommandStyle(f"{program} draw").load()(*cut, rng())
    grey = np.asarray(Image.fromarray(cut[0]).convert("L"), float)
    assert sketch.shape == SIZE and np.abs(sketch - grey).mean() < 15


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("fail", "failed with exit code 1: no credit left"),
        ("silent", "wrote no {sketch}"),
        ("garbage", r"sketch\.png: not a picture"),
        ("sleep", "took more than 1 s"),
    ],
)
def test_a_failing_program_fails_the_photo(cut, program, what, message):
    with pytest.raises(DataError, match=message):
        CommandStyle(f"{program} {what}", timeout=1).load()(*cut, rng())


def test_impossible_commands_are_refused_at_once():
    with pytest.raises(EnvironmentProblem, match="no program 'no-such-program'"):
        CommandStyle("no-such-program {photo} {sketch}").load()
    for line in ("", "draw {photo}", "draw '{photo} {sketch}"):
        with pytest.raises(ConfigError, match="the style command"):
            CommandStyle(line).load()


def test_no_shell_reads_the_command(tmp_path, cut, program):
    mark = tmp_path / "mark"
    with pytest.raises(DataError):
        CommandStyle(f"{program} fail ; touch {mark}").load()(*cut, rng())
    assert not mark.exists()
