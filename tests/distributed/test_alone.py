"""A process that msrun did not start, and one that cannot find the others."""

import numpy as np
import pytest
from mindspore import communication

from ms_unireid import distributed
from ms_unireid.errors import EnvironmentProblem
from ms_unireid.runtime import ALONE

MSRUN = {"MS_ROLE": "MS_WORKER", "MS_WORKER_NUM": "2", "MS_SCHED_HOST": "127.0.0.1", "MS_SCHED_PORT": "99999"}


@pytest.fixture
def refused(monkeypatch):
    """Have MindSpore's communication fail as it does, in several lines."""

    def fail():
        raise RuntimeError("no scheduler\n\n----\n- C++ Call Stack")

    monkeypatch.setattr(communication, "init", fail)


def test_a_process_that_msrun_did_not_start_is_alone(refused, monkeypatch):
    monkeypatch.delenv("MS_ROLE", raising=False)
    assert distributed.start() == ALONE


def test_missing_processes_are_an_error_of_one_line(refused, monkeypatch):
    for name, value in MSRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(EnvironmentProblem, match=r"2 processes .* 127\.0\.0\.1:99999 .*--master_port") as error:
        distributed.start()
    assert "\n" not in str(error.value)


def test_alone_nothing_is_exchanged():
    rows = np.arange(3)
    assert distributed.all_gather_rows(rows, ALONE) is rows
    assert [distributed.any_process(flag, ALONE) for flag in (False, True)] == [False, True]
    distributed.broadcast_parameters([], ALONE)
