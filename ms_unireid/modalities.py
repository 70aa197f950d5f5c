"""Modalities of a query, and the tasks that are made of them."""

from collections.abc import Iterable

TEXT = "text"
PICTURES = ("sketch", "pencil", "infrared")  # the known ones; a data set may bring others
FUSION = "fusion"  # the paper's name of text+sketch
_FUSED = (TEXT, "sketch")


def modalities_of(task: str) -> tuple[str, ...]:
    """Return the modalities of a task, text first and then as they are written: `fusion` is text and sketch."""
    parts = _FUSED if task == FUSION else tuple(task.split("+"))
    return tuple(sorted(parts, key=lambda part: part != TEXT))


def task_of(modalities: Iterable[str]) -> str:
    """Return the name of the task that asks with these modalities at once."""
    parts = tuple(sorted(modalities, key=lambda part: part != TEXT))
    return FUSION if parts == _FUSED else "+".join(parts)


def symbol(task: str) -> str:
    """Return a task as tables show it, such as T+S->R."""
    return "+".join(part[0].upper() for part in modalities_of(task)) + "->R"
