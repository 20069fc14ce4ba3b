"""One test body, two devices."""

from __future__ import annotations

import pytest
import torch

from flashinterp.runs import session
from tests.plugin.dummies import BOTH_DEVICES, PASSES, Evals

pytest_plugins = ["pytester"]


def test_the_cpu_twin_runs_by_default(evals: Evals) -> None:
    run = evals(BOTH_DEVICES)
    assert run.counts == {"passed": 1}
    assert ("passed", "test_both[cpu]") in run.events
    assert run.results["partial"] is False


@pytest.mark.parametrize("args", [["-m", "gpu"], ["--device", "cuda"], ["--device", "cuda:1"]], ids=" ".join)
def test_without_a_gpu_its_evals_skip_and_that_is_no_pass(
    evals: Evals, monkeypatch: pytest.MonkeyPatch, args: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run = evals(BOTH_DEVICES, *args)
    assert run.result.ret == 1
    assert run.counts == {"skipped": 1}
    assert "torch sees no CUDA GPU" in run.text
    assert "NOTHING PASSED" in run.text
    assert "torch sees no CUDA GPU" in run.results["ledger"]["reasons"]["skipped"][0]


def test_a_required_gpu_that_is_missing_is_a_usage_error(evals: Evals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "--require-gpu: torch sees no CUDA GPU" in evals.refused(BOTH_DEVICES, "-m", "gpu", "--require-gpu")


@pytest.mark.parametrize(
    ("args", "ran"),
    [
        pytest.param(["-m", "gpu"], "cuda", id="-m gpu"),
        pytest.param(["-m", "gpu", "--require-gpu"], "cuda", id="--require-gpu"),
        pytest.param(["--device", "cuda:1"], "cuda:1", id="--device cuda:1"),
        pytest.param(["-m", "not gpu"], "cpu", id="-m not gpu"),
    ],
)
def test_one_device_is_a_whole_run(evals: Evals, monkeypatch: pytest.MonkeyPatch, args: list[str], ran: str) -> None:
    """Leaving out the same body on the other device leaves no eval out."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(session, "environment", lambda started, *_: {"started": started})
    run = evals(BOTH_DEVICES, *args)
    assert run.result.ret == 0
    assert ("passed", f"test_both[{ran}]") in run.events
    assert run.counts == {"passed": 1}
    assert (run.results["partial"], run.results["ledger"]["deselected"]) == (False, 0)


def test_an_eval_without_a_device_is_missing_on_the_gpu(evals: Evals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(session, "environment", lambda started, *_: {"started": started})
    run = evals(BOTH_DEVICES + PASSES, "-m", "gpu")
    assert (run.results["partial"], run.results["ledger"]["deselected"]) == (True, 1)
