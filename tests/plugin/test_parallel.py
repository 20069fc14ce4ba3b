"""pytest-xdist, installed or used: a clear refusal, and nothing else disturbed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.plugin.dummies import PASSES, Evals

pytest_plugins = ["pytester"]


def test_a_worker_of_a_parallel_run_is_refused(evals: Evals) -> None:
    """As under pytest-xdist, which gives each of its workers a ``workerinput``."""

    def pytest_configure(config: Any) -> None:
        config.workerinput = {}

    plugin = SimpleNamespace(pytest_configure=pytest_configure)
    run = evals(PASSES, plugins=[plugin])
    assert run.result.ret == 1
    assert "the evals share one model and one report: run them without -n" in run.text.splitlines()
    assert not run.out.exists()


def test_parallel_evals_are_refused_once_for_all(evals: Evals) -> None:
    pytest.importorskip("xdist")
    many = PASSES + "".join(f"\ndef test_more_{i}(evidence): pass" for i in range(8))
    run = evals(many + "\ndef test_arithmetic(): assert 1 + 1 == 2", "-n", "2")
    assert run.result.ret == 1
    run.result.assert_outcomes(passed=1, errors=1)
    assert run.text.splitlines().count("the evals share one model and one report: run them without -n") == 1
    assert not run.out.exists()


@pytest.mark.parametrize("args", [["-n", "0"], ["--dist", "no"]], ids=" ".join)
def test_pytest_xdist_that_is_not_used_changes_nothing(evals: Evals, args: list[str]) -> None:
    pytest.importorskip("xdist")
    run = evals(PASSES, *args)
    assert run.result.ret == 0
    assert (run.counts, run.results["partial"]) == ({"passed": 1}, False)
    run.check_whole()


def test_other_tests_run_in_parallel(evals: Evals) -> None:
    pytest.importorskip("xdist")
    run = evals("def test_arithmetic(): assert 1 + 1 == 2", "-n", "2")
    run.result.assert_outcomes(passed=1)
    assert run.result.ret == 0
    assert not run.out.exists()
