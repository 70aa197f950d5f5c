"""Modalities of a query, and the tasks that are made of them."""

import re
from collections.abc import Iterable

TEXT = "text"
PICTURES = ("sketch", "pencil", "infrared")  # the known ones; a data set may bring others
PHOTO = "photo"  # a photo that asks, which a search allows and no task is trained for
FUSION = "fusion"  # the paper's name of text+sketch
_FUSED = (TEXT, "sketch")
MEAN = "mean-"  # and a number N: not a task, but the row of the mean over the tasks of N modalities


def is_picture_name(name: str) -> bool:
    """Whether a modality of pictures may have this name: small letters, digits and _, and no other meaning."""
    return bool(re.fullmatch("[a-z][a-z0-9_]{0,31}", name)) and name not in (TEXT, FUSION, PHOTO, "image")


def written_parts(task: str) -> tuple[str, ...]:
    """Return the modalities of a task as they are written: `fusion` is text and sketch."""
    return _FUSED if task == FUSION else tuple(task.split("+"))


def modalities_of(task: str) -> tuple[str, ...]:
    """Return the modalities of a task in their order, however it is written."""
    return _ordered(written_parts(task))


def written_task(modalities: Iterable[str]) -> str:
    """Return the name of the task that asks with these modalities, in this order."""
    parts = tuple(modalities)
    return FUSION if parts == _FUSED else "+".join(parts)


def task_of(modalities: Iterable[str]) -> str:
    """Return the name of the task that asks with these modalities at once, in whichever order."""
    return written_task(_ordered(modalities))


def canonical(task: str) -> str:
    """Return the name of a task, however it is written: `sketch+text` is fusion."""
    return task_of(written_parts(task))


def pictures_of(tasks: Iterable[str]) -> tuple[str, ...]:
    """Return the pictures that a model of these tasks may be asked with, in their order; sketches in any case."""
    return _ordered({"sketch", *(part for task in tasks for part in written_parts(task))} - {TEXT})


def symbol(task: str) -> str:
    """Return a task as tables show it, such as T+S->R; `mean of N` for a mean over tasks of N modalities."""
    if task == PHOTO:
        return "R->R"
    if task.startswith(MEAN):
        return f"mean of {task.removeprefix(MEAN)}"
    return "+".join(part[0].upper() for part in written_parts(task)) + "->R"


def _ordered(modalities: Iterable[str]) -> tuple[str, ...]:
    """Sort text first, then the known pictures, then others by name: the same in every data set."""
    known = (TEXT, *PICTURES)
    return tuple(sorted(modalities, key=lambda part: (known.index(part) if part in known else len(known), part)))
