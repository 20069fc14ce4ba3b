"""The tiers: a test that takes long without a mark fails, slow ones carry the mark, each kind of model runs by day."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from fixtures.architectures import ARCHITECTURES
from tests import tiers
from tests.architecture_cases import DISTINCT, KINDS, by_kind
from tests.examples import USUAL, examples
from tests.project.files import ROOT, tox_commands

pytest_plugins = ["pytester"]

GUARD = """
from tests.tiers import pytest_fixture_setup, pytest_runtest_call, pytest_runtest_makereport

def pytest_configure(config):
    config.addinivalue_line("markers", "nightly: of the project's own tests")
"""
SPENT = [0.0, 0.0]
"""The clock of the tests below: processor time and time in all, which they add to."""
TESTS = """
import pytest

from tests.project.test_tiers import SPENT

def spend(processor, wait):
    SPENT[0] += processor
    SPENT[1] += wait

@pytest.fixture
def own():
    spend(6, 6)

@pytest.fixture(scope="module")
def shared():
    spend(100, 100)

def test_computes(): spend(11, 11)
def test_waits(): spend(0, 31)
def test_with_its_own_fixture(own): spend(5, 5)
def test_with_a_shared_fixture(shared): spend(9, 9)
def test_on_a_busy_machine(): spend(9, 29)
def test_wrong(): spend(11, 11); assert 1 == 2

@pytest.mark.slow
def test_slow(): spend(100, 100)

@pytest.mark.nightly
def test_nightly(): spend(100, 100)
"""


@pytest.fixture
def guarded(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(GUARD)
    pytester.makepyfile(TESTS)
    return pytester


def run(guarded: pytest.Pytester, factor: str) -> pytest.RunResult:
    """The tests above, run with their own clock; all is put back at once, because this test is guarded, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(tiers.FACTOR, factor)
        patch.setattr(tiers, "clock", lambda: tuple(SPENT))
        return guarded.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:xdist")


def failed(done: pytest.RunResult) -> set[str]:
    return set(re.findall(r"^FAILED \S+::(\w+)", done.stdout.str(), re.MULTILINE))


# --- the guard ------------------------------------------------------------------------------------------


def test_a_test_that_takes_long_without_a_mark_fails(guarded: pytest.Pytester) -> None:
    done = run(guarded, "1")
    done.assert_outcomes(passed=4, failed=4)
    assert failed(done) == {"test_computes", "test_waits", "test_with_its_own_fixture", "test_wrong"}


@pytest.mark.parametrize("factor", ["3", "0"])
def test_a_slow_machine_has_more_time(guarded: pytest.Pytester, factor: str) -> None:
    done = run(guarded, factor)
    done.assert_outcomes(passed=7, failed=1)
    assert failed(done) == {"test_wrong"}


def test_the_failure_says_how_long_and_what_to_do(guarded: pytest.Pytester) -> None:
    done = run(guarded, "1")
    said = [line for line in done.stdout.lines if line.startswith("this test took ")]
    assert [line.partition(";")[0] for line in said] == [
        "this test took 11.0 s of processor time and 11.0 s in all",
        "this test took 0.0 s of processor time and 31.0 s in all",
        "this test took 11.0 s of processor time and 11.0 s in all",
    ]
    for line in said:
        assert "10 s and 30 s are the most: make it faster, or mark it @pytest.mark.slow with the reason" in line
    done.stdout.fnmatch_lines(["E *assert 1 == 2"])  # a failure of its own stays what it was


def test_the_guard_guards_these_tests(request: pytest.FixtureRequest) -> None:
    hooks = request.config.hook.pytest_runtest_makereport.get_hookimpls()
    assert [one for one in hooks if one.function is tiers.pytest_runtest_makereport]


def test_the_clock_counts_what_is_computed() -> None:
    begun = tiers.clock()
    while tiers.clock()[0] <= begun[0]:
        pass
    assert tiers.clock()[1] > begun[1]


# --- which tests are in which tier ------------------------------------------------------------------------


def test_everything_in_integration_is_slow(request: pytest.FixtureRequest) -> None:
    """Of what is collected beside this test."""
    for item in request.session.items:
        if item.path.is_relative_to(ROOT / "tests" / "integration"):
            assert item.get_closest_marker("slow"), item.nodeid


def marked(parameters: Iterable[Any]) -> list[str]:
    return [p.values[-1] for p in parameters if any(mark.name == "nightly" for mark in p.marks)]


def test_every_kind_runs_by_day_and_every_architecture_by_night() -> None:
    for names in (list(ARCHITECTURES), DISTINCT):
        parameters = by_kind(names)
        assert [p.values for p in parameters] == [(name,) for name in names]
        assert marked(parameters) == [name for name in names if name not in KINDS]
    assert len(KINDS) == 8
    assert set(KINDS) <= set(DISTINCT)


def test_what_no_kind_has_is_tried_by_day_on_the_first_that_has_it() -> None:
    parameters = by_kind(["cohere", "granite"], "fault")
    assert [p.values for p in parameters] == [("fault", "cohere"), ("fault", "granite")]
    assert marked(parameters) == ["granite"]


def test_examples_are_scaled_with_the_profile() -> None:
    now = settings().max_examples
    assert examples(50).max_examples == 50 * now // USUAL
    assert examples(1).max_examples >= 1
    counts = [settings.get_profile(name).max_examples for name in ("fast", "ci", "nightly")]
    assert counts == sorted(set(counts))
    assert [settings.get_profile(name).derandomize for name in ("fast", "ci", "nightly")] == [True, True, False]


def test_tox_leaves_out_what_the_tier_has_not() -> None:
    left_out = {
        name: re.findall(r'-m "([^"]*)"', " ".join(tox_commands(name))) for name in ("tests", "tests-full", "nightly")
    }
    assert left_out == {"tests": ["not slow and not nightly"], "tests-full": ["not nightly"], "nightly": []}


def test_pytest_by_hand_is_complete() -> None:
    text = (Path(ROOT) / "pyproject.toml").read_text(encoding="utf-8")
    (options,) = re.findall(r"^addopts = (.*)$", text, re.MULTILINE)
    assert "-m" not in options.replace("--import-mode", "")
