"""The machine's rates, which take seconds to measure."""

import pytest

from ms_unireid.apps.benchmarks import runs


@pytest.fixture(autouse=True)
def _known_rates(monkeypatch):
    monkeypatch.setattr(runs, "rates", lambda: {"float32": 1e11, "bfloat16": 2e11, "copy": 1e10})
