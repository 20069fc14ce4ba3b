"""The guard of the fast tier: a test that takes long without saying so fails (tests/TIERS.md)."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from typing import Any

import pytest

LIMIT = 10.0
"""Seconds that a test may take in the fast tier, with those of its own fixtures that are made for it alone."""
EXEMPT = ("slow", "nightly", "gpu")
"""Marks of tests that are no part of the fast tier."""
FACTOR = "FLASHINTERP_SLOW_FACTOR"
"""A variable of the environment: so many times as long on this machine; 0 turns the guard off."""

_OWN_FIXTURES = pytest.StashKey[float]()


def told(seconds: float, factor: float) -> str | None:
    """What is said of a test that took too long; None if it did not."""
    if factor <= 0 or seconds <= LIMIT * factor:
        return None
    return (
        f"this test took {seconds:.1f} s, and {LIMIT * factor:g} s are the most in the fast tier: make it faster, or "
        "mark it @pytest.mark.slow and say in tests/TIERS.md why it needs the time. On a slow or busy machine, "
        f"{FACTOR} multiplies the limit"
    )


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Add up what a test's own fixtures take; what is shared is made in the first test's time by chance."""
    started = time.perf_counter()
    try:
        return (yield)
    finally:
        if fixturedef.scope == "function":
            stash = request.node.stash
            stash[_OWN_FIXTURES] = stash.get(_OWN_FIXTURES, 0.0) + time.perf_counter() - started


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test that passed, but late."""
    report = yield
    if report.when == "call" and report.passed and not any(map(item.get_closest_marker, EXEMPT)):
        seconds = call.duration + item.stash.get(_OWN_FIXTURES, 0.0)
        late = told(seconds, float(os.environ.get(FACTOR, "1")))
        if late is not None:
            report.outcome, report.longrepr = "failed", late
    return report
