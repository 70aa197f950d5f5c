"""The batches of an epoch that each sampler draws."""

import numpy as np
import pytest

from ms_unireid.config import DataConfig
from ms_unireid.data.samplers import epoch_batches, shard
from ms_unireid.errors import DataError
from ms_unireid.runtime import Processes

SAMPLERS = ("shuffle", "distinct_identities", "identity")


def people(seed=0, persons=40, most=9):
    """Pairs of persons who have between one and `most` each, in random order."""
    rng = np.random.default_rng(seed)
    return rng.permutation(np.repeat(np.arange(persons) * 7, rng.integers(1, most + 1, persons)))


def batches(person_ids, sampler, seed=1, epoch=1, **options):
    return epoch_batches(person_ids, DataConfig(sampler=sampler, **options), seed, epoch)


@pytest.mark.parametrize("batch_size", [2, 5, 64])
def test_shuffle_gives_every_pair_once(batch_size):
    ids = people(persons=31)
    drawn = batches(ids, "shuffle", batch_size=batch_size)
    flat = np.concatenate(drawn)
    left_out = len(ids) % batch_size if len(ids) % batch_size == 1 else 0
    assert len(flat) == len(set(flat)) == len(ids) - left_out
    assert all(len(batch) == batch_size for batch in drawn[:-1])


@pytest.mark.parametrize(("pairs", "kept", "dropped"), [(12, 3, 3), (14, 4, 3), (13, 3, 3), (4, 1, 1)])
def test_the_last_batch(pairs, kept, dropped):
    """A lone pair never makes a batch; a smaller one does unless `drop_last`."""
    ids = np.arange(pairs)
    assert len(batches(ids, "shuffle", batch_size=4)) == kept
    drawn = batches(ids, "shuffle", batch_size=4, drop_last=True)
    assert [len(batch) for batch in drawn] == [4] * dropped


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("batch_size", [4, 16])
def test_distinct_identities(seed, batch_size):
    ids = people(seed)
    drawn = batches(ids, "distinct_identities", seed, batch_size=batch_size)
    flat = np.concatenate(drawn)
    assert len(flat) == len(set(flat))
    for batch in drawn:
        assert len(batch) == batch_size == len(set(ids[batch]))
    # Pairs wait for another epoch only because fewer persons than a batch holds have any left.
    rest = np.setdiff1d(np.arange(len(ids)), flat)
    assert len(set(ids[rest])) < batch_size


def test_leftovers_are_few_when_persons_are_alike():
    ids = np.repeat(np.arange(200), 6)
    drawn = np.concatenate(batches(ids, "distinct_identities", batch_size=64))
    assert len(ids) - len(drawn) < 64


@pytest.mark.parametrize("instances", [2, 4])
def test_identity(instances):
    ids = people(3)
    drawn = batches(ids, "identity", batch_size=16, instances=instances)
    for batch in drawn:
        persons, counts = np.unique(ids[batch], return_counts=True)
        assert len(batch) == 16
        assert len(persons) == 16 // instances
        assert (counts == instances).all()
    flat = np.concatenate(drawn)
    rest = np.setdiff1d(np.arange(len(ids)), flat)
    assert len(set(ids[rest])) < 16 // instances
    # A pair is repeated only to fill up its person's last group.
    for person in set(ids):
        own = np.flatnonzero(ids == person)
        used = np.isin(flat, own).sum()
        assert used <= -(-len(own) // instances) * instances


def test_identity_repeats_a_person_with_too_few_pairs():
    (batch, *_) = batches(np.array([5, 5, 5, 5, 9]), "identity", batch_size=8, instances=4)
    assert sorted(batch) == [0, 1, 2, 3, 4, 4, 4, 4]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_seed_and_epoch_decide(sampler):
    ids = people(2)
    first, again, epoch, seed = (
        np.concatenate(batches(ids, sampler, *pair, batch_size=8)) for pair in ((1, 1), (1, 1), (1, 2), (2, 1))
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, epoch)
    assert not np.array_equal(first, seed)
    assert not np.array_equal(np.concatenate(batches(ids, sampler, 2, 1, batch_size=8)), epoch)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_global_state_is_not_used(sampler):
    ids, drawn = people(2), []
    for seed in (0, 1):
        np.random.seed(seed)
        drawn.append(np.concatenate(batches(ids, sampler, batch_size=8)))
    np.testing.assert_array_equal(*drawn)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_person_ids_may_be_a_list(sampler):
    ids = people(2)
    for a, b in zip(batches(ids, sampler, batch_size=8), batches(ids.tolist(), sampler, batch_size=8), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("ids", "sampler", "options"),
    [
        ([], "shuffle", {}),
        ([1], "shuffle", {}),
        ([1, 2, 3], "shuffle", {"drop_last": True}),
        ([1, 1, 1, 2, 2, 3], "distinct_identities", {}),
        ([1] * 20, "identity", {"instances": 2}),
        ([], "distinct_identities", {}),
    ],
)
def test_a_split_too_small_is_an_error(ids, sampler, options):
    with pytest.raises(DataError, match=r"data\.batch_size=4") as error:
        batches(ids, sampler, batch_size=4, **options)
    assert f"{len(ids)} pairs and {len(set(ids))} identities" in str(error.value)


def shards(drawn, size):
    return [shard(drawn, Processes(rank, size)) for rank in range(size)]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_shards_in_rank_order_are_the_batch(sampler, size):
    drawn = batches(people(2), sampler, batch_size=8, drop_last=True)
    for batch, *parts in zip(drawn, *shards(drawn, size), strict=True):
        assert {len(part) for part in parts} == {8 // size}
        np.testing.assert_array_equal(np.concatenate(parts), batch)


@pytest.mark.parametrize(("last", "size", "kept"), [(5, 2, 4), (7, 4, 4), (4, 4, 4), (3, 4, 0), (11, 3, 9)])
def test_shards_of_a_batch_that_the_processes_do_not_divide(last, size, kept):
    drawn = [np.arange(12), np.arange(12, 12 + last)]
    parts = shards(drawn, size)
    assert {tuple(map(len, own)) for own in parts} == {(12 // size, kept // size) if kept else (12 // size,)}
    flat = np.concatenate([np.concatenate(own) for own in parts])
    np.testing.assert_array_equal(np.sort(flat), np.arange(12 + kept))
