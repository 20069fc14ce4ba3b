"""What is an eval: a test that asks for the plugin's own recorder, by whatever way."""

from __future__ import annotations

import pytest

from tests.plugin.dummies import PASSES, Evals

pytest_plugins = ["pytester"]

ARGUMENT = """@pytest.mark.parametrize("evidence", [1, 2])
def test_numbers(evidence):
    assert evidence
"""
OWN = """@pytest.fixture
def evidence():
    return "mine"

def test_own(evidence):
    assert evidence == "mine"
"""
ADDED_TO = """@pytest.fixture
def evidence(evidence):
    evidence.table("t", "T", ["word"], [["dog"]], "Nothing was measured.")
    return evidence

def test_added_to(evidence): pass
"""


@pytest.mark.parametrize("source", [ARGUMENT, OWN], ids=["an argument", "a fixture of its own"])
def test_another_thing_of_that_name_makes_no_eval(evals: Evals, source: str) -> None:
    """No model is opened, no folder is written, and nothing is said of an audit."""
    run = evals(source)
    assert run.result.ret == 0
    assert "SELF-TEST" not in run.text
    assert not run.out.exists()


def test_a_fixture_that_adds_to_the_recorder_is_still_it(evals: Evals) -> None:
    assert evals(ADDED_TO).counts == {"passed": 1}


def test_an_eval_beside_such_an_argument_is_counted_alone(evals: Evals) -> None:
    run = evals(PASSES + ARGUMENT)
    assert run.results["ledger"]["collected"] == 1
    assert run.counts == {"passed": 1}
