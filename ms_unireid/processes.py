"""The processes that train together, as far as they can be known without MindSpore; who talks is in `distributed`."""

from dataclasses import dataclass

from ms_unireid.errors import ConfigError


@dataclass(frozen=True)
class Processes:
    """How many processes train together, and which of them this is.

    Attributes:
        rank: This process's number, 0 to size - 1.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that logs and writes files."""
        return self.rank == 0

    def block(self, count: int) -> slice:
        """Return this process's part of `count` things: blocks of one length in rank order, the last ones shorter."""
        length = -(-count // self.size)
        return slice(min(self.rank * length, count), min((self.rank + 1) * length, count))


ALONE = Processes()


def check_batch_size(batch_size: int, processes: Processes) -> None:
    """Check that the global batch can be dealt out evenly.

    Raises:
        ConfigError: If it cannot.
    """
    if batch_size % processes.size:
        below = batch_size - batch_size % processes.size
        choices = " or ".join(str(size) for size in (below, below + processes.size) if size)
        raise ConfigError(
            f"data.batch_size={batch_size} cannot be shared evenly by {processes.size} processes; set it to {choices}, "
            "or start another number of processes"
        )
