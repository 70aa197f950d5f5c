"""How work is dealt out to processes."""

import pytest

from ms_unireid.errors import ConfigError
from ms_unireid.processes import Processes, check_batch_size


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 8, 17])
def test_blocks_in_rank_order_are_the_whole(count, size):
    blocks = [list(range(count))[Processes(rank, size).block(count)] for rank in range(size)]
    assert [number for block in blocks for number in block] == list(range(count))
    # Equal lengths, but for what is missing at the end.
    assert all(len(block) == -(-count // size) for block in blocks[: count // max(1, -(-count // size))])


def test_the_first_process():
    assert [Processes(rank, 3).first for rank in range(3)] == [True, False, False]
    assert Processes().first


@pytest.mark.parametrize(("batch_size", "size"), [(64, 1), (64, 8), (7, 7)])
def test_a_batch_that_can_be_shared(batch_size, size):
    check_batch_size(batch_size, Processes(0, size))


@pytest.mark.parametrize(("batch_size", "size", "fix"), [(64, 3, "63 or 66"), (5, 2, "4 or 6"), (2, 4, "4")])
def test_a_batch_that_cannot_be_shared_names_the_next_sizes(batch_size, size, fix):
    with pytest.raises(ConfigError, match=rf"data\.batch_size={batch_size} .* {size} processes; set it to {fix}, "):
        check_batch_size(batch_size, Processes(0, size))
