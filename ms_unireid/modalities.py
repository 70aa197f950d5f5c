"""Modalities of a query, and the tasks that are made of them."""

from collections.abc import Iterable

TEXT = "text"
PICTURES = ("sketch", "pencil", "infrared")  # the known ones; a data set may bring others
FUSION = "fusion"  # the paper's name of text+sketch
_FUSED = (TEXT, "sketch")
MEAN = "mean-"  # and a number N: not a task, but the row of the mean over the tasks of N modalities


def written_parts(task: str) -> tuple[str, ...]:
    """Return the modalities of a task as they are written: `fusion` is text and sketch."""
    return _FUSED if task == FUSION else tuple(task.split("+"))


def modalities_of(task: str) -> tuple[str, ...]:
    """Return the modalities of a task, text first and then as they are written."""
    return tuple(sorted(written_parts(task), key=lambda part: part != TEXT))


def written_task(modalities: Iterable[str]) -> str:
    """Return the name of the task that asks with these modalities, in this order."""
    parts = tuple(modalities)
    return FUSION if parts == _FUSED else "+".join(parts)


def task_of(modalities: Iterable[str]) -> str:
    """Return the name of the task that asks with these modalities at once, in whichever order."""
    return written_task(sorted(modalities, key=lambda part: part != TEXT))


def symbol(task: str) -> str:
    """Return a task as tables show it, such as T+S->R; `mean of N` for a mean over tasks of N modalities."""
    if task.startswith(MEAN):
        return f"mean of {task.removeprefix(MEAN)}"
    return "+".join(part[0].upper() for part in written_parts(task)) + "->R"
