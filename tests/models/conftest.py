"""What MindSpore 2.7 lacks on a CPU."""

import mindspore as ms
import pytest
from mindspore.ops import operations as primitives

from ms_unireid.models import ascend


def split(x, count, axis):
    return primitives.Split(axis, count)(x)


@pytest.fixture(autouse=True)
def split_in_mindspore_2_7(monkeypatch):
    """Its SplitWithSize has no kernel there; on Ascend it has."""
    if ms.__version__.startswith("2.7."):
        monkeypatch.setattr(ascend, "_parts", split)
