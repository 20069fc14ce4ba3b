"""Two samples: Mann-Whitney, AUC and separation, against scipy and by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from flashinterp.stats import auc, mann_whitney_p, separation
from tests.examples import examples
from tests.stats.drawn import table, vector


def test_mann_whitney_is_one_sided() -> None:
    low, high = np.arange(5.0), np.arange(5.0) + 10
    assert mann_whitney_p(high, low) == pytest.approx(1 / math.comb(10, 5))
    assert mann_whitney_p(low, high) == pytest.approx(1.0)


@examples(40)
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


@examples(40)
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


@examples(40)
@given(vector(1, 5), vector(2, 9), st.sampled_from([0.0, 1e-300, 0.1, 7.0]))
def test_separation_is_never_nan_and_mirrors(present: np.ndarray, absent: np.ndarray, scale: float) -> None:
    with np.errstate(over="ignore"):
        one, other = separation(present, absent, scale), separation(-present, -absent, scale)
    assert not np.isnan(one)
    assert one == -other
