"""Wilson and bootstrap intervals against formulas, scipy and simulation; None where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from scipy import stats as scipy_stats

from flashinterp.stats import LEAST_RESAMPLED, bootstrap_mean, wilson
from tests.examples import examples
from tests.stats.drawn import rng, vector

# --- wilson ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "n"), [(0, 7), (7, 7), (3, 10), (754, 1000), (1, 1)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_is_the_closed_formula(k: int, n: int, level: float) -> None:
    z = scipy_stats.norm.ppf(0.5 + level / 2)
    middle = (k + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * math.sqrt(k * (n - k) / n + z**2 / 4)
    got = wilson(k, n, level)
    assert got is not None
    assert got.estimate == k / n
    assert (got.low, got.high) == pytest.approx((middle - half, middle + half), abs=1e-12)
    scipys = scipy_stats.binomtest(k, n).proportion_ci(level, method="wilson")
    assert (got.low, got.high) == (scipys.low, scipys.high)  # to the last bit: recorded ones are reached again


def test_wilson_is_no_point_at_nought_or_all_and_nothing_without_trials() -> None:
    none, every = wilson(0, 20), wilson(20, 20)
    assert none is not None
    assert every is not None
    assert none.low == 0
    assert none.high == pytest.approx(0.161, abs=5e-4)
    assert every.low == pytest.approx(0.839, abs=5e-4)
    assert every.high == 1
    assert wilson(0, 0) is None


# --- bootstrap -------------------------------------------------------------------------------------------


def test_bootstrap_is_scipys_bca_of_the_mean() -> None:
    x = rng(3).exponential(size=25)
    ci = scipy_stats.bootstrap((x,), np.mean, n_resamples=2000, method="BCa", rng=rng(1)).confidence_interval
    got = bootstrap_mean(x, rng(1))
    assert (got.estimate, got.low, got.high) == pytest.approx((x.mean(), ci.low, ci.high))


def test_bootstrap_repeats_with_the_same_rng_and_not_with_another() -> None:
    x = rng(3).normal(size=12)
    assert bootstrap_mean(x, rng(5)) == bootstrap_mean(x, rng(5))
    assert bootstrap_mean(x, rng(5)) != bootstrap_mean(x, rng(6))


def test_bootstrap_covers_the_true_mean_about_as_often_as_it_says() -> None:
    draw, hits, runs = rng(20250105), 0, 200
    for _ in range(runs):
        got = bootstrap_mean(draw.normal(2.0, 1.0, size=20), draw, resamples=300)
        hits += got.low is not None and got.high is not None and got.low <= 2.0 <= got.high
    # 95 % nominal; a bootstrap of 20 values runs at 92 to 93 %. Four standard errors of 200 runs are 7 %.
    assert 0.86 <= hits / runs <= 0.99


@pytest.mark.parametrize("values", [[1.0], [1.0, 2.0], [0.3] * 8, [0.0, 0.0, 1e-300]])
def test_bootstrap_gives_no_interval_where_there_is_none(values: list[float]) -> None:
    got = bootstrap_mean(values, rng())
    assert got.estimate == pytest.approx(np.mean(values))
    assert (got.low, got.high) == (None, None)


def test_bootstrap_takes_three_values_and_no_fewer() -> None:
    values = np.arange(LEAST_RESAMPLED, dtype=np.float64)
    assert bootstrap_mean(values[:-1], rng()).low is None
    assert bootstrap_mean(values, rng()).low is not None


@examples(30)
@given(vector(1, 12))
def test_bootstrap_is_finite_or_none_and_around_the_mean(values: np.ndarray) -> None:
    got = bootstrap_mean(values, rng(), resamples=200)
    assert math.isfinite(got.estimate)
    assert (got.low is None) == (got.high is None)
    if got.low is not None and got.high is not None:
        rounding = 1e-12 * np.abs(values).max()
        assert values.min() - rounding <= got.low <= got.high <= values.max() + rounding
