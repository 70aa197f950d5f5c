"""Pictures to arrays, bit for bit, the training augmentation by slow definitions, and the clauses of captions."""

from itertools import compress, product

import numpy as np
import pytest
from PIL import Image

from ms_unireid.config import AugmentConfig
from ms_unireid.data.pictures import load_picture
from ms_unireid.data.transforms import (
    MEAN,
    STD,
    TrainTransform,
    drop_clauses,
    erase_rectangle,
    evaluation_transform,
    normalize,
    resize,
)
from reference import transforms as reference

SIZE = (32, 16)
PLAIN = AugmentConfig(flip=0, pad=0, erase=0)
BLACK = ((0 - MEAN) / STD)[:, None, None]
FILL = MEAN[:, None, None]


def picture(seed=0, width=23, height=51):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def transformed(augment, seed, first=None, second=None):
    sources = (resize(first or picture(0), SIZE), resize(second or picture(1), SIZE))
    planes = np.zeros((2, 4, *SIZE), np.uint8)
    TrainTransform(SIZE, augment)(sources, np.random.default_rng(seed), planes)
    return normalize(planes)


@pytest.mark.parametrize("size", [(384, 128), SIZE, (17, 40)])
@pytest.mark.parametrize("shape", [(23, 51), (128, 384), (300, 700), (1, 1)])
def test_evaluation_equals_the_reference(size, shape):
    found = evaluation_transform(picture(0, *shape), size)
    assert (found.dtype, found.shape) == (np.float32, (3, *size))
    assert found.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(found, reference.evaluation_transform(picture(0, *shape), size))


def test_pixels_are_those_of_pil():
    height, width = SIZE
    expected = np.asarray(picture().resize((width, height), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(resize(picture(), SIZE), expected)
    levels = evaluation_transform(picture(), SIZE) * STD[:, None, None] + FILL
    np.testing.assert_array_equal(np.rint(levels.transpose(1, 2, 0) * 255), expected)


def test_real_pictures_equal_the_reference(real_root):
    paths = sorted((real_root / "CUHK-PEDES" / "imgs").rglob("*.png"))[:5]
    paths += sorted((real_root / "CUHK-PEDES" / "imgs-sketch2").rglob("*.png"))[:5]
    assert len(paths) == 10
    for path in paths:
        with Image.open(path) as raw:
            expected = reference.evaluation_transform(raw, (384, 128))
        np.testing.assert_array_equal(evaluation_transform(load_picture(path), (384, 128)), expected)


def test_without_augmentation_training_is_evaluation():
    for found, source in zip(transformed(PLAIN, 0), (picture(0), picture(1)), strict=True):
        np.testing.assert_array_equal(found, evaluation_transform(source, SIZE))


def test_generator_alone_decides():
    first, again, other = (transformed(AugmentConfig(), seed) for seed in (5, 5, 6))
    for a, b, c in zip(first, again, other, strict=True):
        assert (a.dtype, a.shape) == (np.float32, (3, *SIZE))
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)


def test_sources_stay_as_they_are():
    source = resize(picture(0), SIZE)
    before = source.copy()
    TrainTransform(SIZE, AugmentConfig(erase=1))(
        (source, source), np.random.default_rng(0), np.zeros((2, 4, *SIZE), np.uint8)
    )
    np.testing.assert_array_equal(source, before)


def test_flip_mirrors():
    photo, _ = transformed(AugmentConfig(flip=1, pad=0, erase=0), 0)
    plain = evaluation_transform(picture(0), SIZE)
    for column in range(SIZE[1]):
        np.testing.assert_array_equal(photo[:, :, column], plain[:, :, SIZE[1] - 1 - column])


def test_flip_frequency():
    augment, plain = AugmentConfig(flip=0.3, pad=0, erase=0), evaluation_transform(picture(0), SIZE)
    flips = sum(not np.array_equal(transformed(augment, seed)[0], plain) for seed in range(400))
    assert 85 < flips < 155


def find_crop(found, plain, pad):
    """Return the offsets (top, left) at which `found` was cut out of the padded picture."""
    padded = np.broadcast_to(BLACK, (3, SIZE[0] + 2 * pad, SIZE[1] + 2 * pad)).copy()
    padded[:, pad:-pad, pad:-pad] = plain
    places = [
        (top, left)
        for top in range(2 * pad + 1)
        for left in range(2 * pad + 1)
        if np.array_equal(found, padded[:, top : top + SIZE[0], left : left + SIZE[1]])
    ]
    (place,) = places
    return place


def test_crop_of_the_padded_picture():
    pad, plain = 3, evaluation_transform(picture(0), SIZE)
    augment = AugmentConfig(flip=0, pad=pad, erase=0)
    places = [find_crop(transformed(augment, seed)[0], plain, pad) for seed in range(300)]
    for axis in (0, 1):
        counts = np.bincount([place[axis] for place in places], minlength=2 * pad + 1)
        assert counts.min() > 15, counts
    assert np.abs(np.corrcoef(np.transpose(places))[0, 1]) < 0.2


def test_photo_and_sketch_share_geometry_only_if_set():
    def differing(share):
        augment = AugmentConfig(erase=0, share_geometry=share)
        pairs = (transformed(augment, seed, picture(0), picture(0)) for seed in range(20))
        return sum(not np.array_equal(*pair) for pair in pairs)

    assert differing(True) == 0
    assert differing(False) > 15


def test_erasing_is_independent_even_with_shared_geometry():
    augment = AugmentConfig(flip=0, pad=0, erase=0.5, share_geometry=True)
    pairs = [transformed(augment, seed, picture(0), picture(0)) for seed in range(400)]
    erased = np.array([[(side == FILL).all(0).any() for side in pair] for pair in pairs])
    assert (np.abs(erased.mean(0) - 0.5) < 0.1).all()
    assert abs((erased[:, 0] & erased[:, 1]).mean() - 0.25) < 0.08


def erased_box(size, seed):
    """Erase; return height, width and place of the hole, having checked that it is a filled rectangle."""
    hole = np.zeros(size, np.uint8)
    erase_rectangle(hole, np.random.default_rng(seed))
    rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
    box = hole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert (box == 1).all()
    assert hole.sum() == box.size
    return (*box.shape, rows[0], columns[0])


def test_erased_rectangles():
    height, width = size = (200, 120)
    boxes = np.array([erased_box(size, seed) for seed in range(600)])
    areas, aspects = boxes[:, 0] * boxes[:, 1] / (height * width), boxes[:, 0] / boxes[:, 1]
    assert 0.018 < areas.min() < 0.03
    assert 0.33 < areas.max() < 0.41
    assert 0.28 < aspects.min() < 0.4
    assert 2.7 < aspects.max() < 3.5
    assert (boxes[:, 0] < height).all() and (boxes[:, 1] < width).all()
    small = aspects[areas < 0.1]  # no wish is refused here
    assert abs(np.log(small).mean()) < 0.2
    assert np.log(small).std() == pytest.approx(np.log(11) / 12**0.5, rel=0.15)
    assert (boxes[:, 0] + boxes[:, 2]).max() == height
    assert boxes[:, 2].min() == boxes[:, 3].min() == 0


def test_erased_areas_are_uniform_where_nothing_is_refused():
    areas = np.array([np.prod(erased_box((100, 100), seed)[:2]) for seed in range(800)]) / 1e4
    low = areas[areas < 0.25]
    assert low.mean() == pytest.approx((0.02 + 0.25) / 2, rel=0.07)


def test_a_picture_too_thin_to_erase_stays_whole():
    erased = np.zeros((1, 50), np.uint8)
    erase_rectangle(erased, np.random.default_rng(0))
    assert not erased.any()


# Clauses of captions.

CLAUSES = [
    "A man in a red and white shirt,",
    "blue jeans",
    "and a size 9.5 shoe.",
    "He has a bag ;",
    "and a hat ,",
    "he waits.",
]


# What may be left of them, and which stayed.
LEFT = {
    " ".join(compress(CLAUSES, kept)).removeprefix("and "): kept
    for kept in product((0, 1), repeat=len(CLAUSES))
    if any(kept)
}


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_clauses_are_left_out_in_order(probability):
    caption = f"  {'  '.join(CLAUSES)} . "
    kept = [LEFT[drop_clauses(caption, probability, np.random.default_rng(seed))] for seed in range(400)]
    expected = 1 - probability + probability / len(CLAUSES)
    np.testing.assert_allclose(np.mean(kept, 0), expected, atol=0.08)


@pytest.mark.parametrize("caption", ["a man", " a man in black. ", "sand and", "...", ", a man", "and and ,"])
def test_a_caption_never_gets_empty(caption):
    found = {drop_clauses(caption, 1.0, np.random.default_rng(seed)) for seed in range(20)}
    assert all(text.strip() for text in found)
    assert len(found) == 1 or caption == "and and ,"
