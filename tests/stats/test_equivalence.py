"""Equivalence within a margin: two one-sided tests, against scipy and simulation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from flashinterp.stats import equivalence, lower_bound, mean_interval
from tests.stats.drawn import rng, vector


@given(vector(3, 20), st.floats(0.01, 1e6), st.sampled_from([0.01, 0.05, 0.1]))
def test_equivalence_is_scipys_two_one_sided_tests(x: Any, margin: float, alpha: float) -> None:
    got = equivalence(x, margin, alpha=alpha)
    assert got.estimate == float(x.mean())
    if x.std(ddof=1) <= 1e-8 * np.abs(x).max():  # equal but for rounding, at which scipy warns
        return
    sides = [
        scipy_stats.ttest_1samp(x, bound, alternative=side).pvalue
        for bound, side in ((-margin, "greater"), (margin, "less"))
    ]
    assert got.p == pytest.approx(max(sides), rel=1e-6, abs=1e-12)
    ci = scipy_stats.ttest_1samp(x, 0).confidence_interval(1 - 2 * alpha)
    scale = float(np.abs(x).max())
    assert (got.low, got.high) == pytest.approx((ci.low, ci.high), rel=1e-6, abs=1e-9 * scale)


@given(vector(3, 20), st.floats(0.01, 1e6), st.floats(0, 1e3))
def test_equivalence_is_shown_exactly_where_its_p_is_at_most_alpha(x: Any, margin: float, slack: float) -> None:
    got = equivalence(x, margin, slack=slack)
    if np.ptp(x) == 0:
        assert got.p is None
    if got.p is not None and abs(got.p - 0.05) > 1e-6:
        assert got.shown == (got.p < 0.05)


def test_equal_differences_have_the_interval_of_what_cannot_be_told_apart() -> None:
    got = equivalence([0.2] * 5, 0.3, slack=0.05)
    assert got.p is None
    assert (got.low, got.high) == pytest.approx((0.15, 0.25))
    assert got.shown
    assert not equivalence([0.2] * 5, 0.3, slack=0.11).shown
    assert not equivalence([0.3] * 5, 0.3).shown  # the margin itself is not within it


@pytest.mark.parametrize("x", [[0.0], [0.0, 0.0]])
def test_of_two_values_nothing_is_shown(x: list[float]) -> None:
    got = equivalence(x, 1.0)
    assert (got.low, got.high, got.p, got.shown) == (None, None, None, False)
    assert lower_bound(x) is None
    assert mean_interval(x).low is None
    assert mean_interval(x).high is None


def test_no_difference_found_is_no_equivalence() -> None:
    x = rng().normal(0, 1, 8)
    assert scipy_stats.ttest_1samp(x, 0).pvalue > 0.05
    assert not equivalence(x, 0.25).shown


@pytest.mark.parametrize("n", [6, 12, 24])
def test_a_difference_of_the_margin_is_rarely_called_none(n: int) -> None:
    draws = rng(n).normal(1, 0.3, (1500, n))
    wrong = np.mean([equivalence(x, 1.0).shown for x in draws])
    assert wrong < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1500)
    assert np.mean([equivalence(x - 1, 1.0).shown for x in draws]) > 0.95


@given(vector(3, 20), st.sampled_from([0.025, 0.05]))
def test_bounds_are_students(x: Any, alpha: float) -> None:
    half = scipy_stats.t.ppf(1 - alpha, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x))
    scale = 1e-9 * float(np.abs(x).max())
    assert lower_bound(x, alpha=alpha) == pytest.approx(x.mean() - half, rel=1e-9, abs=scale)
    got = mean_interval(x, alpha=alpha)
    assert (got.low, got.high) == pytest.approx((x.mean() - half, x.mean() + half), rel=1e-9, abs=scale)
