"""The batches of an epoch: which pairs, in which order. They depend on seed and epoch only."""

from collections.abc import Sequence

import numpy as np

from ms_unireid.config import DataConfig
from ms_unireid.errors import DataError
from ms_unireid.runtime import Processes


def epoch_batches(person_ids: Sequence[int], config: DataConfig, seed: int, epoch: int) -> list[np.ndarray]:
    """Draw the batches of one epoch (1-based): arrays of indices into `person_ids`, the person of each training pair.

    `shuffle` gives every pair once, the last batch smaller unless `drop_last`. `distinct_identities` and `identity`
    give full batches only: `batch_size` persons with one pair each, or `batch_size / instances` persons with
    `instances` pairs each. Pairs that remain when too few persons are left are not used in this epoch. A split that
    cannot fill one batch raises a DataError.
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


def shard(batches: Sequence[np.ndarray], processes: Processes, least: int = 1) -> list[np.ndarray]:
    """Return one process's block of each global batch; the blocks in rank order are the batch.

    All processes get equally many pairs in equally many batches: up to `size - 1` pairs at the end of a batch are left
    out, and a batch with fewer than `least` pairs for each process is left out as a whole.
    """
    whole = [batch[: len(batch) - len(batch) % processes.size] for batch in batches]
    return [batch[processes.block(len(batch))] for batch in whole if len(batch) >= least * processes.size]


def _shuffled(count: int, config: DataConfig, rng: np.random.Generator) -> list[np.ndarray]:
    order = rng.permutation(count)
    batches = [order[i : i + config.batch_size] for i in range(0, count, config.batch_size)]
    # The contrastive loss of a single pair is zero, and its batch shape would cost a compilation.
    smallest = config.batch_size if config.drop_last else 2
    return batches if not batches or len(batches[-1]) >= smallest else batches[:-1]


def _by_identity(person_ids: np.ndarray, persons: int, instances: int, rng: np.random.Generator) -> list[np.ndarray]:
    groups = [_groups(np.flatnonzero(person_ids == p), instances, rng) for p in np.unique(person_ids)]
    left = np.array([len(g) for g in groups])
    batches = []
    while np.count_nonzero(left) >= persons:
        # The Gumbel trick: draws persons without replacement, with probabilities proportional to the groups left.
        with np.errstate(divide="ignore"):
            keys = np.log(left) + rng.gumbel(size=len(left))
        chosen = np.argpartition(-keys, persons - 1)[:persons]
        left[chosen] -= 1
        batches.append(np.concatenate([groups[c][left[c]] for c in chosen]))
    return batches


def _groups(pairs: np.ndarray, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Split one person's pairs into groups of `size`; repeats fill the last one."""
    order = rng.permutation(pairs)
    missing = -len(order) % size
    filled = np.concatenate([order, rng.choice(pairs, missing)]) if missing else order
    return list(filled.reshape(-1, size))
