"""Effective numbers against their formulas, and what is made of those of several words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flashinterp.errors import RunError
from flashinterp.studies.word_frequency.concentration_records import Concentration, Spread, spread
from flashinterp.studies.word_frequency.concentration_tables import rows_of
from tests.helpers import assert_one_line_with_next_step

masses = arrays(np.float64, st.tuples(st.integers(1, 12), st.integers(1, 4)), elements=st.floats(1e-6, 1e6))

# --- effective numbers ----------------------------------------------------------------------------------


@given(st.integers(1, 50), st.integers(0, 50), st.floats(1e-200, 1e200))
def test_equal_shares_over_m_neurons_give_m(m: int, idle: int, size: float) -> None:
    mass = np.concatenate([np.full(m, size), np.zeros(idle)])[:, None]
    found = spread(mass)
    assert found.participation[0] == pytest.approx(m)
    assert found.entropy[0] == pytest.approx(m)
    assert found.top[0] == pytest.approx(1 / m)


@given(masses)
def test_it_is_the_formula_in_float64(mass: np.ndarray) -> None:
    found = spread(mass)
    for t in range(mass.shape[1]):
        shares = mass[:, t] / mass[:, t].sum()
        assert found.participation[t] == pytest.approx(1 / sum(s**2 for s in shares))
        assert found.entropy[t] == pytest.approx(np.exp(-sum(s * np.log(s) for s in shares)))
        assert found.top[t] == pytest.approx(max(shares))


@given(masses, st.floats(1e-9, 1e9), st.randoms(use_true_random=False))
def test_neither_the_unit_nor_the_order_matters_and_the_numbers_are_in_order(
    mass: np.ndarray, unit: float, random: Any
) -> None:
    one = spread(mass)
    order = list(range(len(mass)))
    random.shuffle(order)
    other = spread(unit * mass[order])
    assert other.participation == pytest.approx(one.participation)
    assert other.entropy == pytest.approx(one.entropy)
    slack = 1 + 1e-9
    assert (one.participation >= 1 / slack).all()
    assert (one.participation <= one.entropy * slack).all()
    assert (one.entropy <= len(mass) * slack).all()
    assert (1 / one.top <= one.participation * slack).all()


def test_two_to_one_is_nine_fifths() -> None:
    assert spread(np.array([[2.0], [1.0]])).participation[0] == pytest.approx(9 / 5)


def test_a_word_without_mass_has_no_number() -> None:
    found = spread(np.array([[0.0, 1.0], [0.0, 1.0]]))
    assert np.isnan([found.participation[0], found.entropy[0], found.top[0]]).all()
    assert found.participation[1] == pytest.approx(2)


@pytest.mark.parametrize("wrong", [-1.0, np.nan, np.inf])
def test_what_is_no_mass_is_refused(wrong: float) -> None:
    with pytest.raises(RunError, match="1 of 2 masses") as error:
        spread(np.array([[1.0], [wrong]]))
    assert_one_line_with_next_step(error.value)


# --- what it comes to -----------------------------------------------------------------------------------


def _spread(*numbers: float) -> Spread:
    x = np.array(numbers)
    return Spread(x, x, 1 / x)


def test_the_numbers_of_a_table_are_means_over_words() -> None:
    one = Concentration("score", 8, (" a", " b"), _spread(2.0, 8.0), (_spread(8.0, 8.0), _spread(2.0, 8.0)))
    ((model, neurons, mass, here, low, high, null, against, *_, entropy, top),) = rows_of(
        "m", [one], np.random.default_rng(0)
    )
    assert (model, neurons, mass, low, high) == ("m", 8, "score", None, None)
    assert here == pytest.approx(4)
    assert null == pytest.approx(np.sqrt(4 * 8))  # 4 is the geometric mean of 8 and 2
    assert against == pytest.approx(4 / np.sqrt(32))
    assert (entropy, top) == pytest.approx((4, (1 / 2 + 1 / 8) / 2))


def test_a_word_without_mass_is_left_out_and_no_words_at_all_give_nothing() -> None:
    rng = np.random.default_rng(0)
    one = Concentration("score", 8, (" a", " b"), _spread(np.nan, 8.0), ())
    assert one.effective(rng).estimate == pytest.approx(8)  # type: ignore[union-attr]
    assert one.null(rng) is None
    assert one.against_null(rng) is None
    none = Concentration("score", 8, (" a",), _spread(np.nan), (_spread(2.0),))
    assert rows_of("m", [none], rng)[0][3:] == [None, None, None, pytest.approx(2), None, None, None, None, None]
