"""Batches through worker threads: the same bytes in the same order for any number of threads."""

import numpy as np
import pytest
from PIL import Image

from ms_unireid.config import AugmentConfig, RuntimeConfig
from ms_unireid.data.annotations import Pair
from ms_unireid.data.decoded_cache import open_decoded_cache
from ms_unireid.data.pipeline import PictureSource, TrainingSource, iterate
from ms_unireid.data.tokenizer import Tokenizer
from ms_unireid.data.transforms import TrainTransform, evaluation_transform, normalize
from ms_unireid.errors import DataError

SIZE = (24, 8)
PAIRS = 11


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Eleven pairs of noise."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name in [f"{kind}{i}.png" for i in range(PAIRS) for kind in ("photo", "sketch")]:
        Image.fromarray(rng.integers(0, 256, (30, 11, 3), dtype=np.uint8)).save(folder / name)
    return [
        Pair(i, folder / f"photo{i}.png", ((folder / f"sketch{i}.png",),), f"a man with {i} bags") for i in range(PAIRS)
    ]


@pytest.fixture(scope="module")
def order():
    """Batches of four, four and three pairs; one pair occurs twice in the second."""
    return [np.array([3, 1, 4, 10]), np.array([5, 9, 5, 6]), np.array([0, 8, 7])]


def source(pairs, order, seed=1, epoch=1):
    transform = TrainTransform(SIZE, AugmentConfig())
    token_ids = Tokenizer(16)([pair.caption for pair in pairs])
    return TrainingSource(pairs, order, transform, token_ids, seed, epoch)


def drawn(batches, workers=1, prefetch=2):
    return [
        [np.array(a) for a in batch] for batch in iterate(batches, RuntimeConfig(workers=workers, prefetch=prefetch))
    ]


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(("workers", "prefetch"), [(1, 1), (2, 4), (500, 2)])
def test_workers_change_nothing(pairs, order, workers, prefetch):
    batches = source(pairs, order)
    found = drawn(batches, workers, prefetch)
    assert_same(found, [batches[i] for i in range(len(order))])
    assert [[(a.dtype, a.shape) for a in batch] for batch in found] == [
        [(np.uint8, (n, 4, *SIZE)), (np.uint8, (n, 4, *SIZE)), (np.int32, (n, 16))] for n in (4, 4, 3)
    ]


def test_pixels_out_of_a_cache_are_the_same(pairs, order, tmp_path):
    load = open_decoded_cache(tmp_path, SIZE, [path for pair in pairs for path in (pair.photo, *pair.pictures[0])])
    paths = [pair.pictures[0][0] for pair in pairs]
    expected = drawn(source(pairs, order)), drawn(PictureSource(paths, 4, SIZE))
    cached = source(pairs, order)
    cached.load = load
    found = drawn(cached, 2), drawn(PictureSource(paths, 4, SIZE, load), 2)
    for ours, theirs in zip(found, expected, strict=True):
        assert_same(ours, theirs)


def test_rows_belong_to_their_pairs(pairs, order):
    batches = source(pairs, order)
    batches.transform = TrainTransform(SIZE, AugmentConfig(flip=0, pad=0, erase=0))
    for chosen, (images, sketches, token_ids) in zip(order, drawn(batches, 2), strict=True):
        for row, number in enumerate(chosen):
            pair = pairs[number]
            np.testing.assert_array_equal(normalize(images[row]), evaluation_transform(Image.open(pair.photo), SIZE))
            np.testing.assert_array_equal(
                normalize(sketches[row]), evaluation_transform(Image.open(pair.pictures[0][0]), SIZE)
            )
            np.testing.assert_array_equal(token_ids[row], Tokenizer(16)(pair.caption)[0])


def test_the_rest_of_an_epoch_is_the_same_rest(pairs, order):
    whole = drawn(source(pairs, order), 2)
    for start in range(1, len(order)):
        assert_same(drawn(source(pairs, order[start:]), 2), whole[start:])


def test_seed_and_epoch_decide_the_augmentation(pairs, order):
    first, again, epoch, seed = (source(pairs, order, *key)[0] for key in ((1, 1), (1, 1), (1, 2), (2, 1)))
    assert_same([first], [again])
    for other in (epoch, seed):
        assert not np.array_equal(first[0], other[0])
        np.testing.assert_array_equal(first[2], other[2])


def test_repeats_of_a_pair_are_augmented_differently(pairs, order):
    images, _, token_ids = source(pairs, order)[1]
    assert not np.array_equal(images[0], images[2])
    np.testing.assert_array_equal(token_ids[0], token_ids[2])


def test_breaking_off_leaves_the_next_epoch_whole(pairs, order):
    batches = source(pairs, order * 4)
    started = iterate(batches, RuntimeConfig(workers=2))
    next(started)
    started.close()
    assert_same(drawn(batches, 2), [batches[i] for i in range(len(batches))])


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_an_unreadable_picture_is_named(pairs, order, workers, damage, tmp_path):
    bad = tmp_path / "bad.png"
    if damage == "truncated":
        bad.write_bytes(pairs[0].photo.read_bytes()[:200])
    spoiled = list(pairs)
    spoiled[8] = Pair(8, pairs[8].photo, ((bad,),), "a man")
    with pytest.raises(DataError, match=r"bad\.png"):
        drawn(source(spoiled, order), workers)


def test_an_unreadable_picture_for_evaluation_is_named(pairs, tmp_path):
    paths = [pairs[0].photo, tmp_path / "gone.png", pairs[1].photo]
    with pytest.raises(DataError, match=r"gone\.png"):
        drawn(PictureSource(paths, 2, SIZE))


def test_batches_before_the_bad_one_arrive(pairs, order, tmp_path):
    spoiled = list(pairs)
    spoiled[8] = Pair(8, tmp_path / "bad.png", pairs[8].pictures, "a man")
    batches = iterate(source(spoiled, order), RuntimeConfig(workers=1, prefetch=1))
    assert_same([next(batches)], [source(pairs, order)[0]])
    with pytest.raises(DataError):
        list(batches)


@pytest.mark.parametrize("count", [1, 4, 5, 8])
@pytest.mark.parametrize("workers", [1, 3])
def test_the_last_batch_of_pictures_is_filled_up(pairs, count, workers):
    paths = [pair.photo for pair in pairs[:count]]
    pictures = PictureSource(paths, 4, SIZE)
    found = np.concatenate([images for (images,) in drawn(pictures, workers)])
    assert len(pictures) == -(-count // 4)
    assert (found.dtype, found.shape) == (np.uint8, (4 * len(pictures), 3, *SIZE))
    expected = np.stack([evaluation_transform(Image.open(path), SIZE) for path in paths])
    np.testing.assert_array_equal(normalize(found[:count]), expected)
    for row in found[count:]:
        np.testing.assert_array_equal(normalize(row), expected[4 * (len(pictures) - 1)])
