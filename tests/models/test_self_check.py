"""The check of a form on a device: what passes, what is caught, and what is said."""

import re
from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest

from ms_unireid.config import ModelConfig, RuntimeConfig
from ms_unireid.errors import EnvironmentProblem
from ms_unireid.models import forms, self_check
from ms_unireid.models.forms import Operations
from ms_unireid.models.ops import Affine, Pick
from ms_unireid.models.unireid import build_model


@pytest.fixture(scope="module")
def measured():
    """What the plain form measures in float32."""
    return self_check._plain("fp32")


@pytest.fixture
def plain(monkeypatch, measured):
    """Measure the plain form in float32 once for all tests, and give no verdict from another test."""
    own = self_check.measure
    known = lambda operations: measured if operations == Operations() else own(operations)  # noqa: E731
    monkeypatch.setattr(self_check, "measure", known)
    self_check.verdict.cache_clear()
    yield measured
    self_check.verdict.cache_clear()


class WrongBias(Affine):
    """Forgets half of the bias's gradient."""

    def bprop(self, x, weight, bias, out, dout):
        return self.product(dout, weight.transpose(1, 0)), ms.ops.matmul(dout.T, x), 0.5 * dout.sum(0)


class Failing(Pick):
    """Has no kernel."""

    def construct(self, table, rows):
        raise RuntimeError("Unsupported op [Embedding]\non Ascend")


def register(monkeypatch, kinds):
    monkeypatch.setitem(forms._FORMS, "other", kinds)


def test_the_fast_form_agrees_compiled(plain, graph, monkeypatch, capsys):
    fast = self_check.measure(Operations("fast"))
    monkeypatch.setattr(self_check, "measure", lambda operations: plain if operations == Operations() else fast)
    form, found = self_check.verdict("fast", "fp32")
    assert form == "fast" and found.startswith("fast fp32 agrees with plain fp32: differences features ")
    assert capsys.readouterr().err == ""
    features, gradients, update = self_check.compare(fast, plain)
    assert 0 < features < 1e-5 and 0 < gradients < 1e-4 and update < 1e-4


def test_float16_agrees_with_room(plain, pynative):
    features, gradients, update = self_check.compare(self_check.measure(Operations("plain", "mixed")), plain)
    allowed = self_check._ALLOWED["mixed"]
    assert 1e-5 < features < allowed[0] / 2 and 1e-4 < gradients < allowed[1] / 2 and update < 1e-4


@pytest.mark.parametrize(
    ("kinds", "reason"),
    [
        ({Affine: WrongBias}, r"differences features \S+ \(allowed 2e-03\), gradients [4-9]\.\de-01 \(allowed 2e-02\)"),
        ({Pick: Failing}, r"failed the check: RuntimeError: .*Unsupported op \[Embedding\] on Ascend"),
    ],
    ids=["gradient", "exception"],
)
def test_a_wrong_form_is_replaced_with_a_warning(plain, monkeypatch, pynative, capsys, kinds, reason):
    register(monkeypatch, kinds)
    for _ in range(2):
        form, found = self_check.verdict("other", "fp32")
        assert form == "plain"
    warning = capsys.readouterr().err
    assert warning == f"warning: {found}\n" and found.startswith("other fp32 failed the check: ")
    assert found.endswith("; the plain form is used instead")
    assert re.search(reason, found), found


def test_a_wrong_update_is_seen(plain, monkeypatch):
    monkeypatch.setattr(self_check, "measure", lambda _: plain._replace(update=0.5))
    assert self_check.examine(Operations("fast"), plain)[0] is False
    monkeypatch.setattr(self_check, "measure", lambda _: plain._replace(feats=[f * np.nan for f in plain.feats]))
    assert self_check.examine(Operations("fast"), plain)[0] is False


def test_the_precision_is_named_where_it_is_at_fault(plain, monkeypatch, capsys):
    coarse = plain._replace(feats=[1.1 * f for f in plain.feats])
    monkeypatch.setattr(self_check, "measure", lambda operations: plain if operations == Operations() else coarse)
    at_fault = "; the precision is at fault: set runtime.precision=fp32"
    assert self_check.verdict("fast", "mixed")[1].endswith(f"{at_fault}; the plain form is used instead")
    assert self_check.verdict("plain", "mixed")[1].endswith(at_fault)  # there is no other form to use


def test_a_precision_that_does_not_run_is_one_line(plain, pynative):
    with pytest.raises(EnvironmentProblem, match=r"CPU cannot compute in bf16 \(.*\); set runtime.precision=fp32"):
        self_check.verdict("plain", "bf16")


def test_all_processes_decide_alike(plain, monkeypatch, capsys):
    monkeypatch.setattr(self_check, "any_process", lambda flag, processes: True)
    monkeypatch.setattr(self_check, "measure", lambda operations: plain)
    form, found = self_check.verdict("fast", "fp32")
    assert form == "plain" and "another process found a difference" in found


def test_every_model_passes_the_check_once_a_process(plain, monkeypatch, pynative, capsys):
    """On a device that is no CPU; here the Ascend form fails for want of kernels."""
    tiny = ModelConfig(architecture="tiny", image_size=(32, 16), context_length=12)
    assert build_model(tiny).operations == Operations("fast")
    own = ms.get_context
    monkeypatch.setattr(ms, "get_context", lambda name: "Ascend" if name == "device_target" else own(name))
    assert build_model(tiny, runtime=RuntimeConfig(fused_ops="plain")).operations.checked is None
    for _ in range(2):
        operations = build_model(tiny, runtime=RuntimeConfig(recompute=True)).operations
        assert operations == Operations("plain", recompute=True)
        assert operations.checked.startswith("ascend fp32 failed the check: ")
    assert capsys.readouterr().err.count("the plain form is used instead") == 1
    monkeypatch.setenv("MS_SIMULATION_LEVEL", "1")
    simulated = self_check.checked_operations(RuntimeConfig())
    assert simulated == replace(simulated, form="ascend") and "dry run" in simulated.checked
