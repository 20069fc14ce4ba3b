"""The statistics against scipy, explicit formulas and simulation; what is undefined is None, never NaN."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats as scipy_stats

from flashinterp.stats import (
    LEAST_RESAMPLED,
    auc,
    bootstrap_mean,
    equivalence,
    false_discovery,
    isotonic_violation,
    lower_bound,
    mann_whitney_p,
    mean_interval,
    page_trend,
    rank_p,
    separation,
    smallest_family_p,
    smallest_ps,
    wilson,
)

finite = st.one_of(
    st.floats(-1e6, 1e6), st.sampled_from([0.0, 1.0, 0.1, 1e-300, -1e-300])
)  # ties are common on purpose


def table(rows: tuple[int, int], columns: tuple[int, int]) -> st.SearchStrategy[Any]:
    return st.tuples(st.integers(*rows), st.integers(*columns)).flatmap(
        lambda s: arrays(np.float64, s, elements=finite)
    )


def vector(least: int, most: int) -> st.SearchStrategy[Any]:
    return st.integers(least, most).flatmap(lambda n: arrays(np.float64, n, elements=finite))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- wilson -----------------------------------------------------------------------------------------


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


def test_wilson_is_no_point_at_nought_or_all_and_nothing_without_trials() -> None:
    none, every = wilson(0, 20), wilson(20, 20)
    assert none is not None
    assert every is not None
    assert none.low == 0
    assert none.high == pytest.approx(0.161, abs=5e-4)
    assert every.low == pytest.approx(0.839, abs=5e-4)
    assert every.high == 1
    assert wilson(0, 0) is None


# --- bootstrap --------------------------------------------------------------------------------------


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


@settings(max_examples=30, deadline=None)
@given(vector(1, 12))
def test_bootstrap_is_finite_or_none_and_around_the_mean(values: np.ndarray) -> None:
    got = bootstrap_mean(values, rng(), resamples=200)
    assert math.isfinite(got.estimate)
    assert (got.low is None) == (got.high is None)
    if got.low is not None and got.high is not None:
        rounding = 1e-12 * np.abs(values).max()
        assert values.min() - rounding <= got.low <= got.high <= values.max() + rounding


# --- trend ------------------------------------------------------------------------------------------

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


@settings(max_examples=40, deadline=None)
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


# --- shape ------------------------------------------------------------------------------------------


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


@settings(max_examples=40, deadline=None)
@given(vector(1, 9))
def test_isotonic_violation_is_nought_only_for_a_monotone_curve_and_mirrors(curve: np.ndarray) -> None:
    up = isotonic_violation(curve, "+")
    rounding = 1e-12 * np.abs(curve).max()  # the fit averages even what is equal
    assert 0 <= up <= np.ptp(curve) + rounding
    assert up == pytest.approx(isotonic_violation(-curve, "-"), rel=1e-6, abs=rounding)
    assert (up <= rounding) == bool((np.diff(curve) >= -rounding).all())


# --- rank and false discovery -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "controls", "wanted"),
    [
        (9.0, np.arange(9.0), 1 / 10),  # the floor
        (8.0, np.arange(9.0), 2 / 10),  # a tie counts against the target
        (0.1 + 0.2, [0.3] * 9, 1.0),  # also one that rounding hides
        (0.3001, [0.3] * 9, 1 / 10),
        (-np.inf, [-np.inf, 0.0], 1.0),
        (-1.0, np.arange(9.0), 1.0),
        (np.inf, [np.inf, 1.0], 2 / 3),
        (1.0, [2.0], 1.0),
        (1.0, [], None),
    ],
)
def test_rank_p_by_hand(target: float, controls: Any, wanted: float | None) -> None:
    assert rank_p(target, controls) == (None if wanted is None else pytest.approx(wanted))


@pytest.mark.parametrize(
    ("slack", "wanted"),
    [
        (0.0, 1 / 10),
        (0.9, 1 / 10),
        (1.0, 2 / 10),  # the first control is 1 below the target
        (1.5, 2 / 10),
        (2.0, 3 / 10),
        (1e9, 1.0),
        (np.inf, 1.0),
    ],
)
def test_what_cannot_be_told_apart_counts_against_the_target(slack: float, wanted: float) -> None:
    assert rank_p(9.0, np.arange(9.0), slack=slack) == pytest.approx(wanted)
    assert rank_p(9.0, [], slack=slack) is None


@settings(max_examples=40, deadline=None)
@given(finite, vector(1, 40), st.floats(0, 1e6), st.floats(0, 1e6))
def test_slack_never_makes_a_rank_better(target: float, controls: np.ndarray, one: float, more: float) -> None:
    ps = [rank_p(target, controls, slack=slack) for slack in (0.0, one, one + more)]
    assert None not in ps
    assert ps == sorted(ps)  # type: ignore[type-var]
    assert ps[0] == rank_p(target, controls)


@settings(max_examples=40, deadline=None)
@given(finite, vector(1, 40))
def test_rank_p_has_its_floor(target: float, controls: np.ndarray) -> None:
    p = rank_p(target, controls)
    assert p is not None
    assert 1 / (1 + len(controls)) <= p <= 1


def benjamini_hochberg(ps: list[float]) -> list[float]:
    """q_i = min over p_j >= p_i of m p_j / rank_j, by two loops."""
    m = len(ps)
    scaled = {p: p * m / sum(other <= p for other in ps) for p in ps}
    return [min(1.0, min(s for other, s in scaled.items() if other >= p)) for p in ps]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=12))
def test_false_discovery_is_benjamini_hochberg_over_those_that_exist(ps: list[float | None]) -> None:
    qs = false_discovery(ps)
    assert [q is None for q in qs] == [p is None for p in ps]
    known = [p for p in ps if p is not None]
    assert [q for q in qs if q is not None] == pytest.approx(benjamini_hochberg(known), rel=1e-9, abs=1e-300)


def test_false_discovery_of_nothing_is_nothing() -> None:
    assert false_discovery([]) == []
    assert false_discovery([None, None]) == [None, None]
    assert false_discovery([0.01, None, 0.03]) == [pytest.approx(0.02), None, pytest.approx(0.03)]


@pytest.mark.parametrize(
    ("p", "claims", "true", "wanted"),
    [
        (0.01, 30, 1, 0.3),
        (0.001, 30, 1, 0.03),
        (0.005, 9, 9, 0.005),
        (1.0, 1, 1, 1.0),
        (0.5, 9, 1, 1.0),
        (0.0, 9, 1, 0),
    ],
)
def test_smallest_family_p_is_what_false_discovery_gives(p: float, claims: int, true: int, wanted: float) -> None:
    assert smallest_family_p(p, claims, true) == pytest.approx(wanted)
    assert false_discovery([p] * true + [1.0] * (claims - true))[0] == pytest.approx(wanted)


@given(st.floats(1e-12, 1), st.integers(1, 40), st.data())
def test_no_family_with_so_many_true_claims_has_a_smaller_q(p: float, claims: int, data: st.DataObject) -> None:
    true = data.draw(st.integers(1, claims))
    rest = data.draw(st.lists(st.just(1.0), min_size=claims - true, max_size=claims - true))
    best = smallest_family_p(p, claims, true)
    assert best <= 1
    assert false_discovery([p] * true + rest)[0] == pytest.approx(best)
    worse = data.draw(st.lists(st.floats(p, 1), min_size=true, max_size=true))
    assert min(q for q in false_discovery(worse + rest) if q is not None) >= best * (1 - 1e-9)
    assert smallest_family_p(p, claims) >= best


# --- what a design can give at best -----------------------------------------------------------------

RANK, TREND, READING = "rank among controls", "trend over doses", "with the word and with others"


def least(**changes: int) -> dict[str, float]:
    return smallest_ps(**{"controls": 239, "prompts": 6, "doses": 5, "contexts": 4, "absent": 8, **changes})


def test_the_least_ps_of_the_smoke_profile() -> None:
    got = least()
    assert got == {
        RANK: 1 / 240,
        TREND: pytest.approx(math.factorial(5) ** -6),  # of all orders within all prompts, one
        READING: pytest.approx(1 / math.comb(36, 4)),  # of all choices of 4 among 36, one
    }


@pytest.mark.parametrize(("controls", "wanted"), [(0, 1.0), (1, 0.5), (19, 0.05), (999, 0.001)])
def test_the_least_rank_is_that_of_a_target_above_all_controls(controls: int, wanted: float) -> None:
    got = least(controls=controls)[RANK]
    assert got == pytest.approx(wanted)
    if controls:
        assert rank_p(1.0, np.zeros(controls)) == got


@pytest.mark.parametrize(("prompts", "doses"), [(2, 3), (3, 3), (3, 4), (6, 5), (12, 5)])
def test_the_least_trend_of_a_small_table_is_one_order_of_all(prompts: int, doses: int) -> None:
    assert least(prompts=prompts, doses=doses)[TREND] == pytest.approx(math.factorial(doses) ** -prompts, rel=1e-6)


@pytest.mark.parametrize(("prompts", "doses"), [(12, 7), (24, 11), (13, 5)])
def test_the_least_trend_of_a_large_table_is_by_the_normal_curve(prompts: int, doses: int) -> None:
    j = np.arange(1, doses + 1)
    mean = prompts * doses * (doses + 1) ** 2 / 4
    deviation = math.sqrt(prompts * doses**2 * (doses + 1) * (doses**2 - 1) / 144)
    z = (prompts * int((j * j).sum()) - mean) / deviation
    assert least(prompts=prompts, doses=doses)[TREND] == pytest.approx(float(scipy_stats.norm.sf(z)), rel=1e-6)


@pytest.mark.parametrize(("prompts", "doses"), [(1, 5), (6, 2), (6, 1), (0, 5)])
def test_a_trend_that_cannot_be_tested_can_give_no_p_but_one(prompts: int, doses: int) -> None:
    assert least(prompts=prompts, doses=doses)[TREND] == 1


@pytest.mark.parametrize(("contexts", "absent"), [(3, 1), (3, 2), (4, 8), (8, 1), (8, 16), (8, 32)])
def test_the_least_reading_is_one_choice_of_all(contexts: int, absent: int) -> None:
    wanted = 1 / math.comb(contexts * (1 + absent), contexts)
    assert least(contexts=contexts, absent=absent)[READING] == pytest.approx(wanted, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    prompts=st.integers(2, 5), doses=st.integers(3, 6), contexts=st.integers(3, 6), absent=st.integers(1, 5),
    controls=st.integers(1, 50), seed=st.integers(0, 10**6), strength=st.floats(0, 10),
)  # fmt: skip
def test_no_data_of_these_sizes_give_a_smaller_p(
    prompts: int, doses: int, contexts: int, absent: int, controls: int, seed: int, strength: float
) -> None:
    got = smallest_ps(controls=controls, prompts=prompts, doses=doses, contexts=contexts, absent=absent)
    draw = rng(seed)
    curves = draw.normal(size=(prompts, doses)) + strength * np.arange(doses)
    trend = page_trend(curves, "+")
    reading = mann_whitney_p(draw.normal(strength, 1, contexts), draw.normal(size=(contexts, absent)))
    rank = rank_p(strength, draw.normal(size=controls))
    assert trend is not None
    assert rank is not None
    assert trend >= got[TREND] * (1 - 1e-9)
    assert reading >= got[READING] * (1 - 1e-9)
    assert rank >= got[RANK]


@pytest.mark.parametrize("size", ["controls", "prompts", "doses", "contexts", "absent"])
def test_more_of_anything_never_makes_the_least_p_larger(size: str) -> None:
    for n in range(3, 8):  # where every test is an exact one
        fewer, more = least(**{size: n}), least(**{size: n + 1})
        assert all(more[test] <= fewer[test] for test in fewer)
        assert any(more[test] < fewer[test] for test in fewer)


# --- two samples ------------------------------------------------------------------------------------


def test_mann_whitney_is_one_sided() -> None:
    low, high = np.arange(5.0), np.arange(5.0) + 10
    assert mann_whitney_p(high, low) == pytest.approx(1 / math.comb(10, 5))
    assert mann_whitney_p(low, high) == pytest.approx(1.0)


@settings(max_examples=40, deadline=None)
@given(vector(1, 6), table((1, 4), (1, 5)))
def test_mann_whitney_is_a_probability(present: np.ndarray, absent: np.ndarray) -> None:
    assert 0 <= mann_whitney_p(present, absent) <= 1


@pytest.mark.parametrize(
    ("present", "absent", "wanted"),
    [
        ([3.0], [1.0, 2.0], 1.0),
        ([0.0], [1.0, 2.0], 0.0),
        ([1.5], [1.0, 2.0], 0.5),
        ([1.0], [1.0, 2.0], 0.25),  # a tie counts half
        ([1.0, 1.0], [1.0], 0.5),
        ([2.0, 0.0], [[1.0, 1.0], [1.0, 3.0]], 3 / 8),  # of any shape
        ([np.inf], [np.inf, 0.0], 0.75),
    ],
)
def test_auc_by_hand(present: Any, absent: Any, wanted: float) -> None:
    assert auc(present, absent) == pytest.approx(wanted)


@settings(max_examples=40, deadline=None)
@given(vector(1, 6), table((1, 4), (1, 5)))
def test_auc_is_mann_whitneys_u_as_a_share_and_mirrors(present: np.ndarray, absent: np.ndarray) -> None:
    u = scipy_stats.mannwhitneyu(present, absent.ravel()).statistic
    assert auc(present, absent) == pytest.approx(u / (present.size * absent.size))
    assert auc(absent, present) == pytest.approx(1 - auc(present, absent))
    assert auc(-present, -absent) == pytest.approx(1 - auc(present, absent))
    assert 0 <= auc(present, absent) <= 1


def test_separation_is_the_gap_in_units_of_the_scale() -> None:
    present, absent = np.array([[3.0, 0.0], [5.0, 1.0]]), np.array([[0.0, 2.0], [2.0, 4.0], [4.0, 6.0]])
    assert separation(present, absent, [2.0, 0.5]) == pytest.approx([(4 - 2) / 2, (0.5 - 4) / 0.5])
    assert separation(present, absent, 4.0) == pytest.approx([0.5, -0.875])


@pytest.mark.parametrize(
    ("present", "absent", "scale", "wanted"),
    [
        ([2.0, 2.0], [2.0, 2.0], 1.0, 0.0),
        ([2.0, 2.0], [2.0, 2.0], 0.0, 0.0),
        ([3.0], [2.0, 2.0], 0.5, 2.0),  # it is not what the words without the concept vary by
        ([3.0], [2.0, 2.0], 0.0, np.inf),
        ([1.0], [2.0, 2.0], 0.0, -np.inf),
    ],
)
def test_separation_of_constants(present: list[float], absent: list[float], scale: float, wanted: float) -> None:
    assert float(separation(np.array(present), np.array(absent), scale)) == wanted


@settings(max_examples=40, deadline=None)
@given(vector(1, 5), vector(2, 9), st.sampled_from([0.0, 1e-300, 0.1, 7.0]))
def test_separation_is_never_nan_and_mirrors(present: np.ndarray, absent: np.ndarray, scale: float) -> None:
    with np.errstate(over="ignore"):
        one, other = separation(present, absent, scale), separation(-present, -absent, scale)
    assert not np.isnan(one)
    assert one == -other


# --- equivalence ----------------------------------------------------------------------------------------


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
