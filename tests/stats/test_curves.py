"""Trend and shape of dose-response curves, against scipy and by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from flashinterp.stats import isotonic_violation, page_trend
from tests.examples import examples
from tests.stats.drawn import rng, table, vector

# --- trend -----------------------------------------------------------------------------------------------

RISING = np.arange(5.0) + np.array([[0.0], [10.0], [-3.0], [2.0]])  # [prompts, doses]


@pytest.mark.parametrize(
    ("data", "up", "down"), [(RISING, True, False), (-RISING, False, True), (RISING**3, True, False)]
)
def test_page_trend_follows_the_direction(data: np.ndarray, up: bool, down: bool) -> None:
    for direction, expected in (("+", up), ("-", down)):
        p = page_trend(data, direction)  # type: ignore[arg-type]
        assert p is not None
        assert (p < 1e-4) if expected else (p > 0.999)


def test_page_trend_is_scipys() -> None:
    data = rng(4).normal(size=(6, 5)) + 0.3 * np.arange(5)
    assert page_trend(data, "+") == pytest.approx(scipy_stats.page_trend_test(data).pvalue)
    assert page_trend(data, "-") == pytest.approx(scipy_stats.page_trend_test(data[:, ::-1]).pvalue)


@pytest.mark.parametrize(
    "data", [np.zeros((6, 5)), RISING[:1], RISING[:, :2], np.zeros((0, 5))], ids=lambda d: str(d.shape)
)
def test_page_trend_is_none_where_there_is_no_evidence(data: np.ndarray) -> None:
    assert page_trend(data, "+") is None
    assert page_trend(data, "-") is None


def test_page_trend_keeps_its_level_on_noise() -> None:
    draw = rng(20250105)
    ps = [page_trend(draw.normal(size=(6, 5)), "+") for _ in range(300)]
    share = np.mean([p is not None and p <= 0.05 for p in ps])
    assert share <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / 300)


@examples(40)
@given(table((1, 7), (1, 9)), st.sampled_from("+-"))
def test_page_trend_is_a_probability_or_none(data: np.ndarray, direction: Any) -> None:
    p = page_trend(data, direction)
    assert p is None or 0 <= p <= 1


def test_page_trend_alone_would_pass_a_collapse_that_the_shape_shows() -> None:
    collapse = np.tile([0.0, 1, 2, 3, 4, 5, 6, 2, 0.5], (8, 1)) + 0.01 * rng().normal(size=(8, 9))
    p = page_trend(collapse, "+")
    assert p is not None
    assert p < 0.01
    assert isotonic_violation(collapse.mean(axis=0), "+") > 1


# --- shape -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("curve", "direction", "wanted"),
    [
        ([0, 1, 2, 3, 4], "+", 0.0),
        ([0, 0, 2, 2, 4], "+", 0.0),
        ([4, 3, 2, 1, 0], "-", 0.0),
        ([4, 3, 2, 1, 0], "+", 2.0),  # best fit: their mean
        ([0, 1, 2, 3, 0], "+", 5 / 3),  # 2, 3, 0 pool at 5/3
        ([0, 2, 1, 3], "+", 0.5),
        ([0, 2, 1, 3], "-", 1.5),
        ([7], "+", 0.0),
    ],
)
def test_isotonic_violation_by_hand(curve: list[float], direction: Any, wanted: float) -> None:
    assert isotonic_violation(curve, direction) == pytest.approx(wanted)


@examples(40)
@given(vector(1, 9))
def test_isotonic_violation_is_nought_only_for_a_monotone_curve_and_mirrors(curve: np.ndarray) -> None:
    up = isotonic_violation(curve, "+")
    rounding = 1e-12 * np.abs(curve).max()  # the fit averages even what is equal
    assert 0 <= up <= np.ptp(curve) + rounding
    assert up == pytest.approx(isotonic_violation(-curve, "-"), rel=1e-6, abs=rounding)
    assert (up <= rounding) == bool((np.diff(curve) >= -rounding).all())
