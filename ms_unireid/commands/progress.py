"""The progress bar of the command lines, on stderr."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm


@contextlib.contextmanager
def progress_bar(unit: str, what: str | None = None) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback (done, total).

    The bar appears at the first call, so refused input shows no bar; it starts again where `done` falls.
    """
    with contextlib.ExitStack() as stack:
        bars: list[tqdm] = []

        def show(done: int, total: int) -> None:
            if not bars:
                from tqdm import tqdm

                bars.append(stack.enter_context(tqdm(total=total, unit=unit, desc=what, mininterval=0.5)))
            if done < bars[0].n:
                bars[0].reset()
            bars[0].total = total
            bars[0].update(done - bars[0].n)

        yield show
