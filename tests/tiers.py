"""The guard of the fast tier: a test that takes long without a mark that says so fails (tests/TIERS.md)."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

PROCESSOR, WAIT = 10.0, 30.0
"""Seconds of processor time, and seconds in all, that a test of the fast tier may take with its own fixtures.

Processor time first, because a busy machine does not change it much; a test that waits is caught by the other.
"""
EXEMPT = ("slow", "nightly", "gpu")
"""Marks of tests that are no part of the fast tier."""
FACTOR = "FLASHINTERP_SLOW_FACTOR"
"""A variable of the environment: so many times as long on this machine; 0 turns the guard off."""

_SPENT = pytest.StashKey[tuple[float, float]]()


def clock() -> tuple[float, float]:
    """Processor time of this process and of those that it has waited for, and the time; in seconds."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system, time.perf_counter()


def told(processor: float, wait: float, factor: float) -> str | None:
    """What is said of a test that took too long; None if it did not."""
    if factor <= 0 or (processor <= PROCESSOR * factor and wait <= WAIT * factor):
        return None
    return (
        f"this test took {processor:.1f} s of processor time and {wait:.1f} s in all; in the fast tier "
        f"{PROCESSOR * factor:g} s and {WAIT * factor:g} s are the most: make it faster, or mark it @pytest.mark.slow "
        f"with the reason (tests/TIERS.md). {FACTOR} multiplies the limits on a slow machine"
    )


@contextmanager
def _counted(item: pytest.Item) -> Iterator[None]:
    """Add what is spent inside to what the test has spent."""
    begun = clock()
    try:
        yield
    finally:
        before = item.stash.get(_SPENT, (0.0, 0.0))
        item.stash[_SPENT] = tuple(b + now - then for b, now, then in zip(before, clock(), begun, strict=True))  # type: ignore[assignment]


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Count a test's own fixtures; one that is shared is made in the first test's time by chance."""
    if fixturedef.scope != "function":
        return (yield)
    with _counted(request.node):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    with _counted(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test that passed, but late."""
    report = yield
    if report.when == "call" and report.passed and not any(map(item.get_closest_marker, EXEMPT)):
        late = told(*item.stash[_SPENT], float(os.environ.get(FACTOR, "1")))
        if late is not None:
            report.outcome, report.longrepr = "failed", late
    return report
