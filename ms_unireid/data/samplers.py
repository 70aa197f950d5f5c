"""Which pairs make up each batch of an epoch; decided by (seed, epoch) alone.

Not MindCV's distributed sampler: it repeats samples to fill an epoch up, and knows no identities.
"""

from collections.abc import Sequence

import numpy as np

from ms_unireid.config import DataConfig
from ms_unireid.errors import DataError
from ms_unireid.processes import Processes


def epoch_batches(person_ids: Sequence[int], config: DataConfig, seed: int, epoch: int) -> list[np.ndarray]:
    """Draw the batches of one epoch.

    `shuffle` gives every pair once, the last batch smaller unless `drop_last`. `distinct_identities` and `identity`
    give full batches only, of `batch_size` persons with one pair each or `batch_size / instances` persons with
    `instances` pairs each; the few pairs left when too few persons remain wait for another epoch.

    Args:
        person_ids: The person of each training pair.
        config: Sampler, batch size, instances, drop_last.
        seed: The run's seed.
        epoch: 1-based.

    Returns:
        Arrays of pair indices, one per step.

    Raises:
        DataError: If the training split cannot fill a single batch.
    """
    rng = np.random.default_rng((seed, epoch))
    if config.sampler == "shuffle":
        batches = _shuffled(len(person_ids), config, rng)
    else:
        instances = config.instances if config.sampler == "identity" else 1
        batches = _by_identity(np.asarray(person_ids), config.batch_size // instances, instances, rng)
    if not batches:
        persons = len(set(person_ids))
        raise DataError(
            f"the training split of {len(person_ids)} pairs and {persons} identities cannot fill one batch of "
            f"data.batch_size={config.batch_size} with data.sampler={config.sampler}; lower data.batch_size"
        )
    return batches


def shard(batches: Sequence[np.ndarray], processes: Processes) -> list[np.ndarray]:
    """Return one process's part of each batch: a block of it, so that the blocks in rank order are the batch.

    All processes get equally many pairs, of equally many batches. Of a batch that they do not divide, an epoch's last
    as a rule, up to `size - 1` pairs at its end are left out; one with fewer pairs than processes is left out whole.

    Args:
        batches: The global batches, from `epoch_batches`.
        processes: Whose part.
    """
    whole = [batch[: len(batch) - len(batch) % processes.size] for batch in batches]
    return [batch[processes.block(len(batch))] for batch in whole if len(batch)]


def _shuffled(count: int, config: DataConfig, rng: np.random.Generator) -> list[np.ndarray]:
    order = rng.permutation(count)
    batches = [order[i : i + config.batch_size] for i in range(0, count, config.batch_size)]
    # A lone pair has nothing to be contrasted with: its loss is zero, and it would cost a compilation.
    smallest = config.batch_size if config.drop_last else 2
    return batches if not batches or len(batches[-1]) >= smallest else batches[:-1]


def _by_identity(person_ids: np.ndarray, persons: int, instances: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Fill batches with groups of `instances` pairs of different persons, persons with more groups left first."""
    groups = [_groups(np.flatnonzero(person_ids == p), instances, rng) for p in np.unique(person_ids)]
    left = np.array([len(g) for g in groups])
    batches = []
    while np.count_nonzero(left) >= persons:
        # The Gumbel trick: sampling without replacement, with chances proportional to what is left.
        with np.errstate(divide="ignore"):
            keys = np.log(left) + rng.gumbel(size=len(left))
        chosen = np.argpartition(-keys, persons - 1)[:persons]
        left[chosen] -= 1
        batches.append(np.concatenate([groups[c][left[c]] for c in chosen]))
    return batches


def _groups(pairs: np.ndarray, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Split one person's pairs into groups of `size`, the last one filled up with repeats."""
    order = rng.permutation(pairs)
    missing = -len(order) % size
    filled = np.concatenate([order, rng.choice(pairs, missing)]) if missing else order
    return list(filled.reshape(-1, size))
