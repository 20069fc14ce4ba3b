"""The smallest p that a design can give at best, against every order there is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from flashinterp.stats import mann_whitney_p, page_trend, rank_p, smallest_ps
from tests.examples import examples
from tests.stats.drawn import rng

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


@examples(40)
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
