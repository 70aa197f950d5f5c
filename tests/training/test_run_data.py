"""Batches of a run: as many as are counted, in every process and every epoch. Costs three seconds."""

import pytest

from ms_unireid.config import load_config
from ms_unireid.runtime import Processes
from ms_unireid.training.run_data import RunData

# 72 pairs in batches of ten: the last one has two pairs, too few for five processes.
BATCHES = {1: 8, 2: 8, 5: 7}


@pytest.mark.parametrize("size", BATCHES)
def test_an_epoch_has_the_batches_that_are_counted(data, size):
    changes = [f"data.root={data}", "data.batch_size=10", "model.image_size=[32,16]", "data.augment.pad=0"]
    config = load_config(None, changes)
    for rank in range(size):
        run_data = RunData(config, Processes(rank, size))
        assert run_data.steps(1) == BATCHES[size] == len(list(run_data.epoch(1)))
        assert len(list(run_data.epoch(2, done=3))) == run_data.steps(2) - 3
    assert len(run_data.describe_batch(1, 1)) == 10
