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
from tests.tiers import pytest_fixture_setup, pytest_runtest_makereport

def pytest_configure(config):
    config.addinivalue_line("markers", "nightly: of the project's own tests")
"""
TEN_MS = "0.001"  # times ten seconds
LATE = """
import time

import pytest

@pytest.fixture
def prepared():
    time.sleep(0.02)

@pytest.fixture(scope="module")
def shared():
    time.sleep(0.02)

def test_late():
    time.sleep(0.02)

def test_late_by_its_own_fixture(prepared):
    pass

def test_of_a_shared_fixture(shared):
    pass

def test_quick():
    pass

@pytest.mark.slow
def test_slow():
    time.sleep(0.02)

@pytest.mark.nightly
def test_nightly():
    time.sleep(0.02)

def test_late_and_wrong():
    time.sleep(0.02)
    assert 1 == 2
"""


@pytest.fixture
def guarded(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(GUARD)
    pytester.makepyfile(LATE)
    return pytester


def run(guarded: pytest.Pytester, factor: str, *args: str) -> pytest.RunResult:
    """The tests above, run; the variable is put back at once, because this test is guarded, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(tiers.FACTOR, factor)
        return guarded.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:xdist", "-rA", *args)


def failed(done: pytest.RunResult) -> set[str]:
    return set(re.findall(r"^FAILED \S+::(\w+)", done.stdout.str(), re.MULTILINE))


# --- the guard ------------------------------------------------------------------------------------------


def test_a_test_that_takes_long_without_a_mark_fails(guarded: pytest.Pytester) -> None:
    done = run(guarded, TEN_MS)
    done.assert_outcomes(passed=4, failed=3)
    assert failed(done) == {"test_late", "test_late_by_its_own_fixture", "test_late_and_wrong"}


@pytest.mark.parametrize("factor", ["1", "0"])
def test_one_that_does_not_passes(guarded: pytest.Pytester, factor: str) -> None:
    done = run(guarded, factor)
    done.assert_outcomes(passed=6, failed=1)
    assert failed(done) == {"test_late_and_wrong"}


def test_the_failure_says_how_long_and_what_to_do(guarded: pytest.Pytester) -> None:
    done = run(guarded, TEN_MS, "-k", "test_late")
    said = [line for line in done.stdout.lines if line.startswith("this test took 0.")]
    assert len(said) == 2
    for line in said:
        assert "0.01 s are the most" in line
        assert "make it faster, or mark it @pytest.mark.slow" in line
    done.stdout.fnmatch_lines(["E *assert 1 == 2"])  # a failure of its own stays what it was


def test_the_factor_multiplies_the_limit() -> None:
    assert tiers.told(9.9, 1) is None
    assert "took 10.1 s, and 10 s" in str(tiers.told(10.1, 1))
    assert tiers.told(29.9, 3) is None
    assert "took 30.1 s, and 30 s" in str(tiers.told(30.1, 3))
    assert tiers.told(1e6, 0) is None


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
    assert now % USUAL == 0
    assert examples(40).max_examples == 40 * now // USUAL
    assert settings.get_profile("nightly").max_examples > USUAL
    assert settings.get_profile("ci").derandomize


def test_tox_leaves_out_what_the_tier_has_not() -> None:
    left_out = {
        name: re.findall(r'-m "([^"]*)"', " ".join(tox_commands(name))) for name in ("tests", "tests-full", "nightly")
    }
    assert left_out == {"tests": ["not slow and not nightly"], "tests-full": ["not nightly"], "nightly": []}


def test_pytest_by_hand_is_complete() -> None:
    text = (Path(ROOT) / "pyproject.toml").read_text(encoding="utf-8")
    (options,) = re.findall(r"^addopts = (.*)$", text, re.MULTILINE)
    assert "-m" not in options.replace("--import-mode", "")
